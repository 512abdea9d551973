package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxPassword is the longest password in bytes.
const maxPassword = 4096

// readPassword sets c.Password from, in this order: --password-file,
// MESHD_PASSWORD, MESHD_PASSWORD_FILE, WEAVE_PASSWORD, password_file of the
// config file. More than one is odd enough for a warning.
func readPassword(c *Config) []*FieldError {
	k := keyNamed("password_file")
	from := c.sources[k.name]
	env := ""
	switch {
	case from.flag != "":
	case os.Getenv("MESHD_PASSWORD") != "":
		env = "MESHD_PASSWORD"
	case from.env != "":
	case os.Getenv("WEAVE_PASSWORD") != "":
		env = "WEAVE_PASSWORD"
	}
	if env != "" {
		if c.PasswordFile != "" {
			c.warn("the password comes from %s; password_file from %s is not read", env, from)
		}
		c.Password = Secret(os.Getenv(env))
		c.sources["password"] = source{env: env}
		return nil
	}
	if c.PasswordFile == "" {
		return nil
	}
	password, mode, err := readFirstLine(c.PasswordFile)
	if err != nil {
		return from.place(k, []*FieldError{fault(c.PasswordFile, err.Error(), "")})
	}
	if mode.Perm()&0o077 != 0 {
		c.warn("password_file %s can be read by others (mode %04o): chmod 600 it", c.PasswordFile, mode.Perm())
	}
	c.Password = Secret(password)
	c.sources["password"] = source{path: c.PasswordFile}
	return nil
}

// readFirstLine reads a file's first line without its end. The errors continue
// "password_file: path …".
func readFirstLine(path string) (string, fs.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, unreadable(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, unreadable(err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPassword+3))
	if err != nil {
		return "", 0, unreadable(err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return "", 0, errors.New("has an empty first line")
	case len(line) > maxPassword:
		return "", 0, fmt.Errorf("has more than %d bytes in its first line", maxPassword)
	}
	return string(line), info.Mode(), nil
}

func unreadable(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

func (c *Config) warn(format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...))
}
