package v3

import (
	"encoding/base64"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules and defaults of Secret, as the Kubernetes API server has them, as far as passwords of BGP
// need them. No message here holds a value.

// Redaction stands for a value that is not shown. It is not base64: a Secret printed with it cannot be
// applied by mistake.
const Redaction = "[redacted]"

// lastApplied is where Kubernetes' own client keeps a copy of the whole object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// defaultSecret moves what was written in clear to where it is kept.
func defaultSecret(s *corev1.Secret) {
	setDefault(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
	if len(s.Data) == 0 {
		s.Data = nil
	}
	for k, v := range s.Data {
		if v == nil {
			s.Data[k] = []byte{}
		}
	}
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for _, at := range []struct {
		path *field.Path
		keys []string
	}{
		{field.NewPath("data"), slices.Sorted(maps.Keys(s.Data))},
		{field.NewPath("stringData"), slices.Sorted(maps.Keys(s.StringData))},
	} {
		for _, k := range at.keys {
			errs = append(errs, checkDataKey(at.path.Key(k), k)...)
		}
	}
	for k, v := range s.Data {
		if _, replaced := s.StringData[k]; !replaced {
			size += len(v)
		}
	}
	for _, v := range s.StringData {
		size += len(v)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath("data"), Redaction, corev1.MaxSecretSize))
	}
	return errs
}

// validateSecretUpdate keeps the type, and all of a Secret that is immutable.
func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := unchanged(field.NewPath("type"), s.Type, old.Type, "create another Secret instead")
	if !deref(old.Immutable) {
		return errs
	}
	const why = "the Secret is immutable: delete it and create it anew"
	if !deref(s.Immutable) {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), why))
	}
	if !reflect.DeepEqual(s.Data, old.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), why))
	}
	return errs
}

// checkSecretData wants base64, of which the decoder of JSON tells no path.
func checkSecretData(tree any) field.ErrorList {
	fields, _ := tree.(map[string]any)
	data, _ := fields["data"].(map[string]any)
	var errs field.ErrorList
	for _, k := range sortedKeys(data) {
		s, ok := data[k].(string)
		if !ok {
			continue
		}
		if _, err := base64.StdEncoding.DecodeString(s); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(k), Redaction, "want base64; text as such goes into stringData"))
		}
	}
	return errs
}

// redacted takes the values out of errors.
func redacted(errs field.ErrorList) field.ErrorList {
	for _, e := range errs {
		e.BadValue = Redaction
	}
	return errs
}

// Redacted returns what may be printed of o where nobody asked for it by name: o itself, or for a Secret
// its keys without their values.
func Redacted(o Object) any {
	s, ok := o.(*corev1.Secret)
	if !ok || s == nil {
		return o
	}
	meta := s.ObjectMeta.DeepCopy()
	if _, has := meta.Annotations[lastApplied]; has {
		meta.Annotations[lastApplied] = Redaction
	}
	data := map[string]string{}
	for k := range s.Data {
		data[k] = Redaction
	}
	for k := range s.StringData {
		data[k] = Redaction
	}
	r := map[string]any{"apiVersion": s.APIVersion, "kind": s.Kind, "metadata": meta, "data": data, "type": s.Type}
	if s.Immutable != nil {
		r["immutable"] = *s.Immutable
	}
	return r
}
