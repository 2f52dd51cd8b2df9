{{/* What all pods have in common. They satisfy the Pod Security level `restricted`. */}}

{{- define "lengthwise.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "lengthwise.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "lengthwise.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- include "lengthwise.modelVolume" . }}
{{- if .Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ .Values.tls.secretName }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "lengthwise.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /etc/lengthwise/config, readOnly: true}
{{- include "lengthwise.modelMount" . }}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /etc/lengthwise/tls, readOnly: true}
{{- end }}
{{- end -}}

{{/*
The kubelet's gRPC probes speak no TLS; with it, probes see only that the port is open, and frozen
processes are the routers' heartbeats' affair alone.
*/}}
{{- define "lengthwise.probe" -}}
{{- if .Values.tls.enabled -}}
tcpSocket: {port: grpc}
{{- else -}}
grpc: {port: 50051}
{{- end -}}
{{- end -}}

{{- define "lengthwise.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}
