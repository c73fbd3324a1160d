package rpc

// Versions returns the versions of the CNI specification that we speak, oldest first.
func Versions() []string {
	return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}
}

// Current is the newest of Versions.
const Current = "1.1.0"

// CheckVersion returns an error unless the configuration's cniVersion is one of ours and has the
// command: CHECK came with 0.4.0, GC and STATUS with 1.1.0.
func CheckVersion(version, command string) *Error {
	order := -1
	for i, v := range Versions() {
		if v == version {
			order = i
		}
	}
	if order < 0 {
		return Errorf(CodeIncompatibleVersion, "cniVersion %q is not supported: use one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0", version)
	}
	if command == Check && order < 2 {
		return Errorf(CodeIncompatibleVersion, "cniVersion %s has no CHECK: use 0.4.0 or later", version)
	}
	if (command == GC || command == Status) && order < 4 {
		return Errorf(CodeIncompatibleVersion, "cniVersion %s has no %s: use 1.1.0", version, command)
	}
	return nil
}
