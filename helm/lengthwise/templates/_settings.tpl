{{/*
Settings of pods, put together from layers: a later one wins. Maps are merged; environments too, by the names
of variables; other lists are replaced.
*/}}

{{- define "lengthwise.layered" -}}
{{- $result := dict -}}
{{- range $given := . -}}
{{- $layer := deepCopy $given -}}
{{- with $layer.image -}}
{{- /* An image of its own is not the one whose digest an earlier layer names. */ -}}
{{- if and (or .repository .tag) (not .digest) -}}
{{- $_ := set . "digest" "" -}}
{{- end -}}
{{- end -}}
{{- $_ := set $layer "env" (concat ($result.env | default list) ($layer.env | default list)) -}}
{{- $result = mergeOverwrite $result $layer -}}
{{- end -}}
{{- toJson $result -}}
{{- end -}}

{{/* Of the `own` settings of a component of `root`. */}}
{{- define "lengthwise.settings" -}}
{{- include "lengthwise.layered" (list (dict "image" .root.Values.image) .root.Values.podDefaults .own) -}}
{{- end -}}

{{/* Pools, with what `poolDefaults` says where they say nothing, and `model` where neither does. */}}
{{- define "lengthwise.pools" -}}
{{- $pools := list -}}
{{- $defaults := dict "lengthClass" "" "flexible" false -}}
{{- range .Values.pools -}}
{{- $own := include "lengthwise.layered" (list $defaults $.Values.poolDefaults .) | fromJson -}}
{{- $pool := include "lengthwise.settings" (dict "root" $ "own" $own) | fromJson -}}
{{- $_ := set $pool "model" (mergeOverwrite (deepCopy $.Values.model) $pool.model) -}}
{{- if and (not $pool.sharedMemory) (eq $pool.device "cuda") -}}
{{- $_ := set $pool "sharedMemory" "1Gi" -}}
{{- end -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- toJson $pools -}}
{{- end -}}

{{/* A list of environment variables in which none is twice: the last counts, at the place of the first. */}}
{{- define "lengthwise.env" -}}
{{- $last := dict -}}
{{- range . -}}
{{- $_ := set $last .name . -}}
{{- end -}}
{{- $merged := list -}}
{{- range . -}}
{{- if hasKey $last .name -}}
{{- $merged = append $merged (get $last .name) -}}
{{- $_ := unset $last .name -}}
{{- end -}}
{{- end -}}
{{- with $merged -}}
env:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* A map without the keys whose values say null: what a cluster chooses itself. */}}
{{- define "lengthwise.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}
