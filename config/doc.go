// Package config has meshd's settings: what there is, what the defaults are,
// where values come from, and everything that is wrong with them at once.
//
//	flags ──┐
//	MESHD_… ├─► viper ──► one value per key ──► checks ──► Config
//	file ───┤             (keys.go)             (check.go)   + faults, all of them
//	Default ┘
//
// The file is read as YAML nodes first, so that an unknown key, a wrong type and
// a bad value are reported with their line, and with the nearest known key.
package config
