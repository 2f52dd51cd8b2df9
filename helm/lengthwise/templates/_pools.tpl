{{/* A pool with what `poolDefaults` says where it says nothing. Maps are merged, lists replaced. */}}
{{- define "lengthwise.pool" -}}
{{- mergeOverwrite (deepCopy .defaults) .pool | toJson -}}
{{- end -}}

{{/* Contradictions between values that the schema cannot put into one clear line. */}}
{{- define "lengthwise.checkPools" -}}
{{- $replicas := dict "prefill" 0 "decode" 0 -}}
{{- $names := dict -}}
{{- range .Values.pools -}}
{{- if hasKey $names .name -}}
{{- fail (printf "pools: got two pools named %s, expected different names" .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- $_ := set $replicas .role (add (get $replicas .role) .replicas) -}}
{{- end -}}
{{- range $role, $count := $replicas -}}
{{- if eq (int $count) 0 -}}
{{- fail (printf "pools: got no replica of role %s, expected at least one: every request needs both roles" $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
