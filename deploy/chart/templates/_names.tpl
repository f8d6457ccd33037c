{{- define "hemostat.labels" -}}
app.kubernetes.io/name: hemostat
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: hemostat
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What selects the pods of one part: (dict "root" . "part" "agent") */}}
{{- define "hemostat.selector" -}}
app.kubernetes.io/name: hemostat
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "hemostat.image" -}}
{{ printf "%s/hemostat-%s:%s" .root.Values.image.registry .part (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}

{{/* Cluster-wide objects carry the release and its namespace, so that two installations do not fight. */}}
{{- define "hemostat.global" -}}
{{ printf "%s-%s-%s" .root.Release.Namespace .root.Release.Name .part | trunc 63 | trimSuffix "-" }}
{{- end }}
