{{/* An Ingress of the routers: root, values, suffix of its name, port of the Service, annotations
unless the values say otherwise. */}}
{{- define "lengthwise.ingress" }}
{{- $name := include "lengthwise.fullname" .root }}
{{- $port := .port }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ $name }}{{ .suffix }}
  labels:
    {{- include "lengthwise.labels" (dict "root" .root "component" "router") | nindent 4 }}
  annotations:
    {{- toYaml (merge (dict) .values.annotations .annotations) | nindent 4 }}
spec:
  {{- with .values.className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with .values.tls }}
  tls:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    {{- range .values.hosts }}
    - host: {{ .host | quote }}
      http:
        paths:
          {{- range .paths | default (list (dict "path" "/" "pathType" "Prefix")) }}
          - path: {{ .path }}
            pathType: {{ .pathType | default "Prefix" }}
            backend: {service: {name: {{ $name }}, port: {name: {{ $port }}}}}
          {{- end }}
    {{- end }}
{{- end }}
