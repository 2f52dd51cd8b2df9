{{/* A router's container. */}}
{{- define "lengthwise.router" -}}
{{- include "lengthwise.probes" (dict "root" . "seconds" .Values.router.startSeconds) }}
ports:
  - {name: grpc, containerPort: 50051}
  - {name: metrics, containerPort: 9090}
  {{- if .Values.http.enabled }}
  - {name: http, containerPort: 8000}
  {{- end }}
lifecycle:
  preStop: {sleep: {seconds: 5}}
command:
  - lengthwise-router
  - --config=/etc/lengthwise/config/router.yaml
{{- end -}}

{{- define "lengthwise.routerMounts" -}}
{{- if and .Values.tls.enabled .Values.tls.clients.secretName -}}
- {name: client-tls, mountPath: /etc/lengthwise/client-tls, readOnly: true}
{{- end }}
{{- if .Values.router.keys.secretName }}
- {name: keys, mountPath: /etc/lengthwise/keys, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "lengthwise.routerVolumes" -}}
{{- if and .Values.tls.enabled .Values.tls.clients.secretName -}}
- name: client-tls
  secret: {secretName: {{ .Values.tls.clients.secretName }}, defaultMode: 0440}
{{- end }}
{{- with .Values.router.keys.secretName }}
- name: keys
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end -}}
{{- end -}}
