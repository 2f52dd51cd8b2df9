"""The chart's Grafana dashboards as code: `make dashboards` writes them to
helm/lengthwise/dashboards, from where the chart makes ConfigMaps of them."""
