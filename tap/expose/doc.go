// Package expose.
package expose
