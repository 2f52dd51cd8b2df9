{{/* A worker's pod, of either role. */}}
{{- define "lengthwise.worker" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
# It asks the API server for nothing.
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "lengthwise.pullSecrets" $root }}
# What runs is finished in drainSeconds; the rest is for putting the engine away.
terminationGracePeriodSeconds: {{ add $pool.drainSeconds 15 }}
securityContext:
  {{- include "lengthwise.podSecurity" $root | nindent 2 }}
{{- include "lengthwise.modelInit" $root }}
containers:
  - name: worker
    image: {{ include "lengthwise.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    # The configuration file is the pool's; where this pod is reached only the pod knows.
    command: [/bin/sh, -c]
    args:
      - >-
        sed "s/POD_IP/$POD_IP/" /etc/lengthwise/config/worker.yaml > /tmp/worker.yaml &&
        exec lengthwise-{{ $pool.role }}-worker --config /tmp/worker.yaml
    env:
      - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
      {{- with include "lengthwise.modelEnv" $root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
    ports:
      - {name: grpc, containerPort: 50051}
      - {name: metrics, containerPort: 9090}
    startupProbe:
      {{- include "lengthwise.probe" $root | nindent 6 }}
      periodSeconds: 1
      failureThreshold: {{ int $pool.startSeconds }}
    readinessProbe:
      {{- include "lengthwise.probe" $root | nindent 6 }}
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 2
    livenessProbe:
      {{- include "lengthwise.probe" $root | nindent 6 }}
      periodSeconds: 5
      timeoutSeconds: 3
      failureThreshold: 6
    securityContext:
      {{- include "lengthwise.containerSecurity" $root | nindent 6 }}
    resources:
      {{- toYaml $pool.resources | nindent 6 }}
    volumeMounts:
      {{- include "lengthwise.mounts" $root | nindent 6 }}
volumes:
  - name: config
    configMap: {name: {{ .name }}}
  {{- include "lengthwise.volumes" $root | nindent 2 }}
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
{{- with $pool.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pool.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pool.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $pool.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
