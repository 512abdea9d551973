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
	passwords, mode, err := readPasswordFile(c.PasswordFile)
	if err != nil {
		return from.place(k, []*FieldError{fault(c.PasswordFile, err.Error(), "")})
	}
	if mode.Perm()&0o077 != 0 {
		c.warn("password_file %s can be read by others (mode %04o): chmod 600 it", c.PasswordFile, mode.Perm())
	}
	c.Password, c.OtherPassword = passwords[0], passwords[1]
	c.sources["password"] = source{path: c.PasswordFile}
	return nil
}

// maxPasswordFile is the longest password file in bytes.
const maxPasswordFile = 4 * maxPassword

// readPasswordFile reads a file's one or two passwords, a line each without its
// end; the second is empty where there is none. The errors continue
// "password_file: path …".
func readPasswordFile(path string) (passwords [2]Secret, mode fs.FileMode, err error) {
	f, err := os.Open(path)
	if err != nil {
		return passwords, 0, unreadable(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return passwords, 0, unreadable(err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPasswordFile+1))
	if err != nil {
		return passwords, 0, unreadable(err)
	}
	passwords, err = parsePasswords(data)
	return passwords, info.Mode(), err
}

func parsePasswords(data []byte) (passwords [2]Secret, err error) {
	for i, line := range bytes.Split(data, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch {
		case i == 0 && len(line) == 0:
			return passwords, errors.New("has an empty first line")
		case len(line) == 0:
		case len(line) > maxPassword:
			return passwords, fmt.Errorf("has more than %d bytes in line %d", maxPassword, i+1)
		case i > 1:
			return passwords, fmt.Errorf("has something in line %d: there are at most two passwords, in the first two lines", i+1)
		default:
			passwords[i] = Secret(line)
		}
	}
	if len(data) > maxPasswordFile {
		return passwords, fmt.Errorf("has more than %d bytes", maxPasswordFile)
	}
	if passwords[1] == passwords[0] {
		passwords[1] = ""
	}
	return passwords, nil
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
