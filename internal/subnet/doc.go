// Package subnet has the rules for addresses on the overlay: which one a host can
// have, which ones it can have together, and what they must not collide with in a
// network namespace. An address comes with the length of its subnet, as in
// 10.32.0.1/24; errors are sentences for users, with what to do.
package subnet
