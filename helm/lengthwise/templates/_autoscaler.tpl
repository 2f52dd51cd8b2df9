{{/* The autoscaler's container. */}}
{{- define "lengthwise.autoscalerContainer" -}}
{{- $scheme := include "lengthwise.metricsScheme" . -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics, scheme: {{ $scheme }}}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /healthz, port: metrics, scheme: {{ $scheme }}}
  periodSeconds: 5
  timeoutSeconds: 2
livenessProbe:
  httpGet: {path: /livez, port: metrics, scheme: {{ $scheme }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 6
ports:
  - {name: metrics, containerPort: 9090}
command:
  - lengthwise-autoscaler
  - --config=/etc/lengthwise/config/autoscaler.yaml
{{- end -}}

{{- define "lengthwise.autoscalerMounts" -}}
{{- $prometheus := .Values.autoscaler.prometheus -}}
{{- if or $prometheus.bearerTokenSecret $prometheus.authoritySecret -}}
- {name: prometheus, mountPath: /etc/lengthwise/prometheus, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "lengthwise.autoscalerVolumes" -}}
{{- $prometheus := .Values.autoscaler.prometheus -}}
{{- if or $prometheus.bearerTokenSecret $prometheus.authoritySecret -}}
- name: prometheus
  projected:
    defaultMode: 0440
    sources:
      {{- with $prometheus.bearerTokenSecret }}
      - secret: {name: {{ . }}, items: [{key: token, path: token}]}
      {{- end }}
      {{- with $prometheus.authoritySecret }}
      - secret: {name: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
      {{- end }}
{{- end -}}
{{- end -}}
