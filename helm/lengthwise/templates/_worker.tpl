{{/* A worker's container, of either role. Of the `pool`. */}}
{{- define "lengthwise.worker" -}}
{{- include "lengthwise.probes" (dict "root" .root "seconds" .pool.startSeconds) }}
ports:
  - {name: grpc, containerPort: 50051}
  - {name: metrics, containerPort: 9090}
# The configuration file is the pool's; where this pod is reached only the pod knows.
command:
  - lengthwise-{{ ternary "flexible" .pool.role .pool.flexible }}-worker
  - --config=/etc/lengthwise/config/worker.yaml
  - --set=advertise_host=$(POD_IP)
{{- end -}}

{{- define "lengthwise.workerEnv" -}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{- end -}}

{{- define "lengthwise.workerMounts" -}}
{{- if .sharedMemory -}}
- {name: shared-memory, mountPath: /dev/shm}
{{- end -}}
{{- end -}}

{{- define "lengthwise.workerVolumes" -}}
{{- with .sharedMemory -}}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: {{ . }}}
{{- end -}}
{{- end -}}
