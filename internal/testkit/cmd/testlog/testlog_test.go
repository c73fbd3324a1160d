package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The output of two test programs, as the test machine writes it.
const written = `vmtest: kernel 6.12.1
vmtest: package weft/a
` + "\x16" + `=== RUN   TestGood
    a_test.go:3: a word of a good test
` + "\x16" + `--- PASS: TestGood (1.50s)
` + "\x16" + `=== RUN   TestAbsent
    require.go:5: SKIP-FEATURE ipip: not on this machine
` + "\x16" + `--- SKIP: TestAbsent (0.00s)
` + "\x16" + `=== NAME
` + "\x16" + `PASS

vmtest: exit 0 4.00 6.50
vmtest: package weft/b
` + "\x16" + `=== RUN   TestBad
` + "\x16" + `=== RUN   TestBad/one
` + "\x16" + `=== NAME  TestBad/one
    b_test.go:9: what went wrong
` + "\x16" + `--- FAIL: TestBad/one (0.10s)
` + "\x16" + `=== NAME  TestBad
` + "\x16" + `--- FAIL: TestBad (0.10s)
` + "\x16" + `=== NAME
` + "\x16" + `FAIL

vmtest: exit 1 6.50 7.00
`

func TestMachine(t *testing.T) {
	for _, c := range []struct {
		name, in  string
		want, not []string
		err       string
	}{
		{"a test fails", written + "vmtest: end after 7 s\n",
			[]string{"ok  \tweft/a\t2.5s\t[6.12.1]", "FAIL\tweft/b\t0.5s", "b_test.go:9: what went wrong", "1 passed, 2 failed, 1 skipped"},
			[]string{"good test"}, "tests failed in weft/b"},
		{"the machine ends early", strings.Split(written, "vmtest: package weft/b")[0],
			[]string{"ok  \tweft/a"}, nil, "6.12.1 ended before its tests did"},
		{"the machine ends within a test", strings.Split(written, "    b_test.go")[0],
			[]string{"weft/b: the machine ended while its tests ran", "FAIL\tweft/b"}, nil, "tests failed in weft/b"},
		{"nothing ran", "vmtest: kernel 6.12.1\nvmtest: end after 3 s\n", nil, nil, "no test ran"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			r := newReport("6.12", &out, false)
			err := r.readMachine(strings.NewReader(c.in))
			if last := r.finish(""); last != nil {
				err = last
			}
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want one that says %q", err, c.err)
			}
			for _, w := range c.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("not printed: %q in\n%s", w, out.String())
				}
			}
			for _, w := range c.not {
				if strings.Contains(out.String(), w) {
					t.Errorf("printed: %q in\n%s", w, out.String())
				}
			}
		})
	}
}

func TestCompare(t *testing.T) {
	here := list{"host", map[string]result{"weft/a TestIPIP": {Outcome: "skip", Why: "ipip"}, "weft/a TestVXLAN": {Outcome: "pass"}, "weft/a TestShort": {Outcome: "pass"}}}
	vm := list{"6.12", map[string]result{"weft/a TestIPIP": {Outcome: "pass"}, "weft/a TestVXLAN": {Outcome: "pass"}, "weft/a TestShort": {Outcome: "skip", Why: "measures"}}}
	var out bytes.Buffer
	if err := compare(&out, []list{here, vm}); err != nil {
		t.Error(err)
	}
	want := "weft/a TestIPIP: ran on 6.12; skipped on host: ipip\nweft/a TestShort: ran on host; skipped on 6.12: measures\n" +
		"2 tests were skipped on one of host, 6.12; 0 of them ran nowhere\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	// What make test-kube runs is named, and no failure.
	out.Reset()
	kube := list{"host", map[string]result{"weft/a TestKube": {Outcome: "skip", Why: "kube: not built"}}}
	if err := compare(&out, []list{kube}); err != nil || !strings.Contains(out.String(), "1 more are left to make test-kube") {
		t.Errorf("a test that needs Kubernetes: %v\n%s", err, out.String())
	}
	// Skipped in both, or there in none of the others: nobody ran it.
	for name, other := range map[string]map[string]result{"skipped": {"weft/a TestIPIP": {Outcome: "skip"}}, "absent": {}} {
		if err := compare(&out, []list{here, {"6.1", other}}); err == nil || !strings.Contains(err.Error(), "weft/a TestIPIP") {
			t.Errorf("%s on the other machine: %v", name, err)
		}
	}
	if err := compare(&out, []list{here}); err == nil {
		t.Error("one list: no error")
	}
}

// TestHost runs the real go test on a module of its own.
func TestHost(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module m\n\ngo 1.21\n",
		"m_test.go": "package m\n\nimport \"testing\"\n\nfunc TestGood(*testing.T) {}\n\nfunc TestBad(t *testing.T) { t.Error(\"what went wrong\") }\n\n" +
			"func TestSkipped(t *testing.T) { t.Skip(\"SKIP-FEATURE x: absent\") }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	r := newReport("host", &out, false)
	cmd := exec.Command("go", "test", "-json", ".")
	cmd.Dir = dir
	events, err := cmd.Output()
	if err == nil {
		t.Fatal("a failing test: go test says nothing")
	}
	if err := r.readEvents(bytes.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	if err := r.finish(""); err == nil || !strings.Contains(err.Error(), "tests failed in m") {
		t.Errorf("finish: %v", err)
	}
	if !strings.Contains(out.String(), "what went wrong") || !strings.Contains(out.String(), "FAIL\tm\t") || !strings.Contains(out.String(), "1 passed, 1 failed, 1 skipped") {
		t.Errorf("printed:\n%s", out.String())
	}
	if got := r.Tests["m TestSkipped"]; got.Outcome != "skip" || got.Why != "x: absent" {
		t.Errorf("the skipped test: %+v", got)
	}
}

// A test that fails is run again, alone, and said to be unsteady where it passes then; what fails twice fails, and so
// does a package without a failed test.
func TestAgain(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module weft.test/x\n\ngo 1.24\n", "x_test.go": `package x

import (
	"os"
	"testing"
)

func TestGood(*testing.T) {}

func TestOnce(t *testing.T) {
	t.Run("part", func(t *testing.T) {
		if _, err := os.Stat("tried"); err != nil {
			_ = os.WriteFile("tried", nil, 0o600)
			t.Error("the first time")
		}
	})
}

func TestNever(t *testing.T) {
	if os.Getenv("NEVER") != "" {
		t.Error("every time")
	}
}

func TestMain(m *testing.M) {
	if code := m.Run(); os.Getenv("LEAVE") == "" {
		os.Exit(code)
	}
	os.Exit(1)
}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOFLAGS", "")
	for _, c := range []struct {
		name, env string
		limit     int
		want, err string
	}{
		{"passes alone", "", 1, "1 of them failed at first and passed alone: weft.test/x TestOnce", ""},
		{"too many", "", 0, "2 passed, 2 failed", "tests failed in weft.test/x"},
		{"fails twice", "NEVER", 2, "3 passed, 1 failed", "tests failed in weft.test/x"},
		{"no test failed", "LEAVE", 5, "", "tests failed in weft.test/x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_ = os.Remove("tried")
			if c.env == "LEAVE" {
				_ = os.WriteFile("tried", nil, 0o600)
			}
			if c.env != "" {
				t.Setenv(c.env, "1")
			}
			var out bytes.Buffer
			r := newReport("host", &out, false)
			command := []string{"go", "test", "-json"}
			err := r.goTest(command, "./...")
			if again := r.unsteadyTests(c.limit); err != nil && again != nil {
				err = r.again(command, again)
			}
			if last := r.finish(""); last != nil || c.err == "" {
				err = errors.Join(err, last)
			}
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("nothing says %q:\n%s", c.want, out.String())
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}
