{{- define "turnout.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The longest name derived from it has 10 more characters, and labels are limited to 63. */}}
{{- define "turnout.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains (include "turnout.name" .) .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "turnout.name" .) | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "turnout.selector" -}}
app.kubernetes.io/name: {{ include "turnout.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "turnout.labels" -}}
{{ include "turnout.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{- define "turnout.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "turnout.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "turnout.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "turnout.shared" -}}
{{- if .Values.state.secret.name -}}true{{- end -}}
{{- end -}}

{{- define "turnout.several" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}true{{- end -}}
{{- end -}}

{{- define "turnout.scheme" -}}
{{- ternary "HTTPS" "HTTP" (ne .Values.tls.secret "") -}}
{{- end -}}

{{/* Rejects invalid combinations of values. values.schema.json validates single values. */}}
{{- define "turnout.check" -}}
{{- if include "turnout.several" . -}}
{{- if not (include "turnout.shared" .) -}}
{{- fail "several replicas decide together through PostgreSQL: set state.secret.name to a Secret that holds its URL, or replicas to 1 and autoscaling.enabled to false" -}}
{{- end -}}
{{- if and (not .Values.models.existingClaim) (not .Values.models.url) (not (or (has "ReadWriteMany" .Values.models.accessModes) (has "ReadOnlyMany" .Values.models.accessModes))) -}}
{{- fail "several replicas mount the same models: set models.accessModes to [ReadWriteMany], or models.existingClaim" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.models.url (not (include "turnout.shared" .)) -}}
{{- fail "models.url is set, and a bucket or registry holds no state store: set state.secret.name to a Secret that holds the URL of one" -}}
{{- end -}}
{{- if not (or .Values.insecure (and .Values.tls.secret .Values.auth.enabled)) -}}
{{- fail "who may call? Set tls.secret and auth.enabled, for callers that prove who they are (docs/security.md); or insecure=true, to accept every caller that the NetworkPolicy lets in" -}}
{{- end -}}
{{- if and .Values.auth.policy (not .Values.auth.enabled) -}}
{{- fail "auth.policy is set: set auth.enabled too" -}}
{{- end -}}
{{- if and (ne .Values.tls.clientCertificates "none") (not .Values.tls.clientCa) -}}
{{- fail "tls.clientCertificates is set: set tls.clientCa too, to a Secret with ca.crt" -}}
{{- end -}}
{{- if and .Values.tls.clientCa (not .Values.tls.secret) -}}
{{- fail "tls.clientCa is set: set tls.secret too" -}}
{{- end -}}
{{- if and .Values.tls.clientCa (eq .Values.tls.clientCertificates "none") -}}
{{- fail "tls.clientCa is set: set tls.clientCertificates to optional or required, or nobody is asked for a certificate" -}}
{{- end -}}
{{- end -}}
