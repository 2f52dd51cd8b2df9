{{/*
Pools, with what `poolDefaults` says where they say nothing, and `model` where neither does. Maps are
merged, lists replaced.
*/}}
{{- define "lengthwise.pools" -}}
{{- $pools := list -}}
{{- range .Values.pools -}}
{{- $pool := mergeOverwrite (dict "lengthClass" "" "flexible" false) (deepCopy $.Values.poolDefaults) . -}}
{{- $_ := set $pool "model" (mergeOverwrite (deepCopy $.Values.model) $pool.model) -}}
{{- if and (not $pool.sharedMemory) (eq $pool.device "cuda") -}}
{{- $_ := set $pool "sharedMemory" "1Gi" -}}
{{- end -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- toJson $pools -}}
{{- end -}}
