"""Keys and values of past tokens: their layout in memory and the memory itself."""
