// Package identity is who a host is, and whom it has met: its Ed25519 key, and
// the keys of the peers it has had as neighbours.
//
//	state_dir/identity   private key, made at the first start
//	state_dir/pins.json  peer name -> public key, as seen first
package identity
