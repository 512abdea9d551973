package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestPasswordFile(t *testing.T) {
	cleanEnv(t)
	for _, tt := range []struct {
		name, content, want string
		fault               string
		other               string
	}{
		{"one line", "hunter2\n", "hunter2", "", ""},
		{"no line end", "hunter2", "hunter2", "", ""},
		{"Windows line end", "hunter2\r\n", "hunter2", "", ""},
		{"blanks belong to it", " hunter 2 \n\n", " hunter 2 ", "", ""},
		{"two", "new\r\nold\r\n", "new", "", "old"},
		{"two, no line end", "new\nold", "new", "", "old"},
		{"twice the same", "new\nnew\n", "new", "", ""},
		{"blank lines after it", "new\nold\n\n\n", "new", "", "old"},
		{"three", "a\nb\nc\n", "", "something in line 3", ""},
		{"a comment far below", "a\n\n\n\n# old\n", "", "something in line 5", ""},
		{"second too long", "a\n" + strings.Repeat("x", maxPassword+1), "", "more than 4096 bytes in line 2", ""},
		{"endless", "a\nb\n" + strings.Repeat("\n", maxPasswordFile), "", "more than 16384 bytes", ""},
		{"longest", strings.Repeat("x", maxPassword) + "\r\n", strings.Repeat("x", maxPassword), "", ""},
		{"empty", "", "", "empty first line", ""},
		{"empty line", "\nhunter2\n", "", "empty first line", ""},
		{"too long", strings.Repeat("x", maxPassword+1), "", "more than 4096 bytes", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, tt.content, 0o600)
			c, err := Load(writeFile(t, "password_file: "+path, 0o644), nil)
			if got := string(c.Password); got != tt.want {
				t.Errorf("password = %q, want %q", got, tt.want)
			}
			if got := string(c.OtherPassword); got != tt.other {
				t.Errorf("second password = %q, want %q", got, tt.other)
			}
			if tt.fault == "" && (err != nil || len(c.Warnings) > 0) {
				t.Errorf("Load() = %v, warnings %q", err, c.Warnings)
			}
			if tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault) || fieldErrors(t, err)[0].Field != "password_file") {
				t.Errorf("Load() = %v, want %q for password_file", err, tt.fault)
			}
		})
	}
}

func TestPasswordFileUnreadable(t *testing.T) {
	cleanEnv(t)
	for _, path := range []string{"/does/not/exist", t.TempDir()} {
		_, err := Load(writeFile(t, "password_file: "+path, 0o600), nil)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("Load() with password_file %s = %v", path, err)
		}
	}
}

func TestPasswordFilePermissions(t *testing.T) {
	cleanEnv(t)
	c, err := Load(writeFile(t, "password_file: "+writeFile(t, "x", 0o640), 0o600), nil)
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "0640") {
		t.Errorf("Load() = %v, warnings %q; want one about mode 0640", err, c.Warnings)
	}
}

// TestPasswordSources: the later in the table, the stronger.
func TestPasswordSources(t *testing.T) {
	cleanEnv(t)
	dir := t.TempDir()
	for _, name := range []string{"file", "env-file", "flag-file"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("from "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := writeFile(t, "password_file: "+dir+"/file\n", 0o600)
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	BindFlags(flags)
	for _, step := range []struct {
		add    func()
		want   string
		warned bool
	}{
		{func() {}, "from file", false},
		{func() { t.Setenv("WEAVE_PASSWORD", "from weave") }, "from weave", true},
		{func() { t.Setenv("MESHD_PASSWORD_FILE", dir+"/env-file") }, "from env-file", false},
		{func() { t.Setenv("MESHD_PASSWORD", "from env") }, "from env", true},
		{func() { flags.Set("password-file", dir+"/flag-file") }, "from flag-file", false},
	} {
		step.add()
		c, err := Load(path, flags)
		if err != nil || string(c.Password) != step.want {
			t.Errorf("password = %q, %v; want %q", string(c.Password), err, step.want)
		}
		if got := len(c.Warnings) > 0; got != step.warned {
			t.Errorf("%s: warnings %q, want some: %v", step.want, c.Warnings, step.warned)
		}
	}
}

func TestPasswordIsNeverPrinted(t *testing.T) {
	cleanEnv(t)
	t.Setenv("MESHD_PASSWORD", "hunter2")
	c, err := Load("", nil)
	if err != nil || c.Password != "hunter2" {
		t.Fatalf("Load() = %q, %v", string(c.Password), err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+"\n", c.Password)
		fmt.Fprintf(&out, verb+"\n", c)
		fmt.Fprintf(&out, verb+"\n", struct{ C *Config }{&c})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("settings", "config", c, "password", c.Password)
	}
	if err := json.NewEncoder(&out).Encode(c); err != nil {
		t.Fatal(err)
	}
	out.Write(c.Marshal())
	fmt.Fprint(&out, c.Diff(Default()), Default().Diff(c))
	for _, leak := range []string{"hunter2", "68756e74657232", "68756E74657232", "104 117"} {
		if i := strings.Index(out.String(), leak); i >= 0 {
			t.Errorf("password printed: …%s…", out.String()[max(0, i-80):i+10])
		}
	}
	if !strings.Contains(string(c.Marshal()), "password from MESHD_PASSWORD") {
		t.Errorf("Marshal() does not say where the password is from:\n%s", c.Marshal())
	}
}
