{{- define "officekms.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "officekms.base" -}}
{{- $name := include "officekms.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Name of the operator's objects. */}}
{{- define "officekms.operator" -}}
{{- printf "%s-operator" (include "officekms.base" .) }}
{{- end }}

{{- define "officekms.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "officekms.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "officekms.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the service account that exists, or let serviceAccount.create be true" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "officekms.selector" -}}
app.kubernetes.io/name: kms-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The chart's own labels, which stand over those that the values add. */}}
{{- define "officekms.labels" -}}
{{ include "officekms.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: officekms
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Metadata of an object: dict "context" $ "name" NAME ["namespace" NAMESPACE] ["annotations" MAP] ["labels" MAP]; a namespace of "" is left out. */}}
{{- define "officekms.metadata" -}}
name: {{ .name }}
{{- $namespace := include "officekms.namespace" .context }}
{{- if hasKey . "namespace" }}{{ $namespace = .namespace }}{{ end }}
{{- with $namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- toYaml (merge (include "officekms.labels" .context | fromYaml) (.labels | default dict) (.context.Values.commonLabels | default dict)) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .context.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An image: dict "context" $ "image" VALUES. A digest wins over the tag, the global registry over the image's own. */}}
{{- define "officekms.image" -}}
{{- $registry := default .image.registry .context.Values.global.imageRegistry }}
{{- $path := .image.repository }}
{{- if $registry }}{{ $path = printf "%s/%s" $registry .image.repository }}{{ end }}
{{- if .image.digest }}
{{- printf "%s@%s" $path .image.digest }}
{{- else }}
{{- printf "%s:%s" $path (default .context.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{/* Names of pull secrets, from [{name: ...}] and [name]. */}}
{{- define "officekms.pullSecrets" -}}
{{- $names := list }}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets }}
{{- if kindIs "string" . }}{{ $names = append $names . }}{{ else }}{{ $names = append $names .name }}{{ end }}
{{- end }}
{{- range uniq $names }}
- name: {{ . }}
{{- end }}
{{- end }}
