package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// makeBox gives the first engine the image box.
func (w *world) makeBox() {
	w.Helper()
	dir := suite.dir // a machine does not see /run of others
	box, err := os.MkdirTemp(dir, "box-")
	w.must(err)
	w.must(os.Chmod(box, 0o755))
	busybox, err := find("busybox")
	w.must(err)
	for _, d := range []string{"bin", "tmp", "www"} {
		w.must(os.MkdirAll(filepath.Join(box, d), 0o755))
	}
	copyFile(w, busybox, filepath.Join(box, "bin/busybox"))
	for _, name := range strings.Fields("sh true ls httpd wget ping ip cat sleep") {
		w.must(os.Symlink("busybox", filepath.Join(box, "bin", name)))
	}
	w.hosts[0].sh(fmt.Sprintf("tar -C %s -c . | docker import - box", box))
}

// makeImages gives every engine the images box and meshd.
func (w *world) makeImages() {
	w.Helper()
	dir := suite.dir
	w.makeBox()
	// As `make image` lays it out.
	root := filepath.Join(dir, "image/root")
	w.must(os.MkdirAll(filepath.Join(root, "var"), 0o755))
	w.must(os.Symlink("../run", filepath.Join(root, "var/run")))
	copyFile(w, suite.binary, filepath.Join(root, "meshd"))
	copyFile(w, "../../packaging/Dockerfile", filepath.Join(dir, "image/Dockerfile"))

	first := w.hosts[0]
	first.sh(fmt.Sprintf("docker build -q -t meshd:latest %[1]s/image && docker save -o %[1]s/images.tar box meshd:latest", dir))
	w.must(w.each(w.hosts[1:], func(h *host) error {
		_, err := h.try("docker", "load", "-i", dir+"/images.tar")
		return err
	}))
}

func copyFile(w *world, from, to string) {
	w.Helper()
	b, err := os.ReadFile(from)
	w.must(err)
	w.must(os.WriteFile(to, b, 0o755))
}
