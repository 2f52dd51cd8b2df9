{{/* A worker's pod, of either role. */}}
{{- define "lengthwise.worker" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $from := dict "root" $root "model" $pool.model "part" "worker" -}}
# It asks the API server for nothing.
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "lengthwise.pullSecrets" $root }}
# What runs is finished in drainSeconds; the rest is for putting the engine away.
terminationGracePeriodSeconds: {{ add $pool.drainSeconds 15 }}
securityContext:
  {{- include "lengthwise.podSecurity" $root | nindent 2 }}
{{- include "lengthwise.modelInit" $from }}
containers:
  - name: worker
    image: {{ include "lengthwise.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    # The configuration file is the pool's; where this pod is reached only the pod knows.
    command:
      - lengthwise-{{ ternary "flexible" $pool.role $pool.flexible }}-worker
      - --config=/etc/lengthwise/config/worker.yaml
      - --set=advertise_host=$(POD_IP)
      {{- include "lengthwise.logArguments" $root | nindent 6 }}
    env:
      - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
      {{- with include "lengthwise.modelEnv" $pool.model | trim }}
      {{- . | nindent 6 }}
      {{- end }}
    ports:
      - {name: grpc, containerPort: 50051}
      - {name: metrics, containerPort: 9090}
    {{- include "lengthwise.probes" (dict "root" $root "seconds" $pool.startSeconds) | nindent 4 }}
    securityContext:
      {{- include "lengthwise.containerSecurity" $root | nindent 6 }}
    resources:
      {{- toYaml $pool.resources | nindent 6 }}
    volumeMounts:
      {{- include "lengthwise.mounts" $from | nindent 6 }}
      {{- if $pool.sharedMemory }}
      - {name: shared-memory, mountPath: /dev/shm}
      {{- end }}
volumes:
  - name: config
    configMap: {name: {{ .name }}}
  {{- include "lengthwise.volumes" $from | nindent 2 }}
  {{- with $pool.sharedMemory }}
  - name: shared-memory
    emptyDir: {medium: Memory, sizeLimit: {{ . }}}
  {{- end }}
{{- with $pool.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    labelSelector:
      matchLabels:
        {{- include "lengthwise.selector" $root | nindent 8 }}
        lengthwise/pool: {{ $pool.name }}
  {{- end }}
{{- end }}
{{- with $pool.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with include "lengthwise.placement" $pool | trim }}
{{ . }}
{{- end }}
{{- end -}}
