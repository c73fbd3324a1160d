package v3

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Flag is a boolean that older releases wrote as a string: "true", "false" and "" are read too, a
// boolean is written.
type Flag bool

// UnmarshalJSON reads a boolean or one of the strings that stand for one.
func (f *Flag) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true", `"true"`:
		*f = true
	case "false", `"false"`, `""`, "null":
		*f = false
	default:
		return fmt.Errorf(`want true or false`)
	}
	return nil
}

// ASNumber is a BGP autonomous system number (RFC 6793: 32 bits). It is read from a number, from a
// string of digits, and from the dotted form "high.low" of RFC 5396 in quotes; a number is written.
//
// +kubebuilder:validation:XIntOrString
// +kubebuilder:validation:Type=""
// +kubebuilder:validation:Format=""
// +kubebuilder:validation:Pattern=`^(0*([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])|0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])[.]0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))$`
// +kubebuilder:validation:XValidation:rule="self >= 0 && self <= 4294967295 || self >= '0'",message="want a number from 0 to 4294967295, or two of 16 bits with a dot between them"
type ASNumber uint32

// UnmarshalJSON reads the forms named at ASNumber.
func (n *ASNumber) UnmarshalJSON(b []byte) error {
	text := string(b)
	if text == "null" {
		return nil // as absent
	}
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
	} else if strings.Contains(text, ".") {
		// A reader of YAML makes 1.1 of 1.10, which is another AS.
		return fmt.Errorf(`AS number %s: want the dotted form in quotes, such as "1.10"`, text)
	}
	parsed, err := ParseASNumber(text)
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}

// ParseASNumber reads "64512" or "0.64512".
func ParseASNumber(s string) (ASNumber, error) {
	const want = "want a number from 0 to 4294967295, or two of 16 bits with a dot between them"
	high, low, dotted := strings.Cut(s, ".")
	if !dotted {
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("AS number %q: %s", s, want)
		}
		return ASNumber(v), nil
	}
	h, errHigh := strconv.ParseUint(high, 10, 16)
	l, errLow := strconv.ParseUint(low, 10, 16)
	if errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("AS number %q: %s", s, want)
	}
	return ASNumber(h<<16 | l), nil
}

// String prints the number in decimal.
func (n ASNumber) String() string { return strconv.FormatUint(uint64(n), 10) }
