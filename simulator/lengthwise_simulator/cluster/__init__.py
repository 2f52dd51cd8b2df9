"""Routers, workers and links: they ask the policies that serve and take the time that costs say."""
