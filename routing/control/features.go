package control

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"meshd/internal/frame"
)

// Keys of the features, weave protocol section 1.7. Stock routers ignore the
// last ones, which meshd peers send each other under protocol 2.
const (
	featureFlavour   = "PeerNameFlavour"
	featureName      = "Name"
	featureNickName  = "NickName"
	featureUID       = "UID"
	featureConnID    = "ConnID"
	featureShortID   = "ShortID"
	featureTrusted   = "Trusted"
	featureOverlays  = "Overlays"
	featurePublicKey = "PublicKey" // protocol 1 with a password
	featureMeshd     = "Meshd"     // abilities, space separated
	featurePort      = "Port"      // decimal: of TCP and sleeve
	featureEphemeral = "Ephemeral" // 64 hex digits: an X25519 public key of this connection
	featureProof     = "Proof"     // over secure streams: 64 hex digits, see proof.go
)

// Bounds of features, weave protocol section 9.2.
const (
	maxFeatures     = 32
	maxFeatureBytes = 4096 // of a key and of a value
	maxNickName     = 255  // bytes
	shortIDs        = 4096 // short IDs are below it
)

// flavourMAC is the only kind of peer names there is in releases.
const flavourMAC = "mac"

// SleeveOverlay is the overlay that peers without an Overlays feature have.
const SleeveOverlay = "sleeve"

// Abilities that meshd peers announce in the Meshd feature.
const (
	AbilityProbe    = "probe"    // answers path probes
	AbilityLeave    = "leave"    // says good-bye before it ends
	AbilityRefusal  = "refusal"  // says why it refuses a peer, and listens to that
	AbilityRest     = "rest"     // probes idle paths only now and then, and lets others do so
	AbilityIdentity = "identity" // signs the handshake with its key
)

var (
	// ErrFeatures says that a peer's features are missing, out of bounds or
	// contradict ours. The connection is closed without a message.
	ErrFeatures = errors.New("features of the peer refused")
	// ErrNoCommonOverlay says that no overlay of ours is one of the peer's.
	ErrNoCommonOverlay = errors.New("no common overlay")
)

// v1Features are the keys that protocol 1 has, PublicKey apart.
var v1Features = []string{featureConnID, featureName, featureNickName, featureFlavour, featureUID}

// Features is what a peer says of itself at the begin of a connection.
type Features struct {
	Name     frame.PeerName
	NickName string // at most 255 bytes
	UID      uint64 // of this incarnation of the peer, never 0
	ConnID   uint64 // random per connection
	// The rest is protocol 2 only.
	ShortID     uint16 // below 4096
	HasShortID  bool
	Trusted     bool     // our address is in the peer's trusted subnets
	Overlays    []string // most preferred first
	HasOverlays bool
	Native      bool      // the peer is meshd
	Abilities   []string  // of a meshd peer
	Port        uint16    // of a meshd peer's TCP and sleeve; 0: not told
	Ephemeral   *[32]byte // X25519 public key for PathSecret; nil: none sent
}

// Can reports whether the peer is meshd with that ability.
func (f Features) Can(ability string) bool {
	return f.Native && slices.Contains(f.Abilities, ability)
}

// FeatureMap gives the features as they are sent under a protocol version.
func (f Features) FeatureMap(version int) map[string]string {
	m := map[string]string{
		featureFlavour:  flavourMAC,
		featureName:     f.Name.String(),
		featureNickName: f.NickName,
		featureUID:      strconv.FormatUint(f.UID, 10),
		featureConnID:   strconv.FormatUint(f.ConnID, 10),
	}
	if version < 2 {
		return m
	}
	m[featureTrusted] = strconv.FormatBool(f.Trusted)
	if f.HasShortID {
		m[featureShortID] = strconv.FormatUint(uint64(f.ShortID), 10)
	}
	if f.HasOverlays {
		m[featureOverlays] = strings.Join(f.Overlays, " ")
	}
	if f.Native {
		m[featureMeshd] = strings.Join(f.Abilities, " ")
	}
	if f.Port != 0 {
		m[featurePort] = strconv.FormatUint(uint64(f.Port), 10)
	}
	if f.Ephemeral != nil {
		m[featureEphemeral] = hex.EncodeToString(f.Ephemeral[:])
	}
	return m
}

// ParseFeatures checks a peer's features as weave protocol sections 1.7, 1.8
// and 9.2 ask, and reads them. Unknown keys are ignored, and under protocol 1
// those of protocol 2. Errors are ErrFeatures.
func ParseFeatures(m map[string]string, version int) (Features, error) {
	if err := checkFeatureBounds(m); err != nil {
		return Features{}, err
	}
	p := featureParser{m: m}
	f := Features{
		Name:     p.name(),
		NickName: p.nickName(),
		UID:      p.number(featureUID),
		ConnID:   p.number(featureConnID),
	}
	if p.err == nil && f.UID == 0 {
		p.refuse("%s is 0", featureUID)
	}
	if version >= 2 {
		p.version2(&f)
	}
	if p.err != nil {
		return Features{}, p.err
	}
	return f, nil
}

func checkFeatureBounds(m map[string]string) error {
	if len(m) > maxFeatures {
		return fmt.Errorf("%w: %d of them, at most %d are taken", ErrFeatures, len(m), maxFeatures)
	}
	for key, value := range m {
		if len(key) > maxFeatureBytes || len(value) > maxFeatureBytes {
			return fmt.Errorf("%w: one has %d bytes, at most %d are taken",
				ErrFeatures, max(len(key), len(value)), maxFeatureBytes)
		}
	}
	return nil
}

// featureParser keeps the first error.
type featureParser struct {
	m   map[string]string
	err error
}

func (p *featureParser) refuse(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s", ErrFeatures, fmt.Sprintf(format, args...))
	}
}

func (p *featureParser) required(key string) string {
	value, ok := p.m[key]
	if !ok {
		p.refuse("%s is missing", key)
	}
	return value
}

func (p *featureParser) name() frame.PeerName {
	if flavour := p.required(featureFlavour); flavour != flavourMAC {
		p.refuse("%s is %.40q, ours is %q", featureFlavour, flavour, flavourMAC)
	}
	name, err := frame.ParsePeerName(p.required(featureName))
	if err != nil {
		p.refuse("%s is %.40q: not a peer name", featureName, p.m[featureName])
	}
	return name
}

func (p *featureParser) nickName() string {
	nick := p.required(featureNickName)
	if len(nick) > maxNickName {
		p.refuse("%s has %d bytes, at most %d are taken", featureNickName, len(nick), maxNickName)
	}
	return nick
}

func (p *featureParser) number(key string) uint64 {
	value := p.required(key)
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		p.refuse("%s is %.40q: not a decimal number of 64 bits", key, value)
	}
	return n
}

func (p *featureParser) version2(f *Features) {
	if value, ok := p.m[featureShortID]; ok {
		id, err := strconv.ParseUint(value, 10, 16)
		if err != nil || id >= shortIDs {
			p.refuse("%s is %.40q: not a number below %d", featureShortID, value, shortIDs)
		}
		f.ShortID, f.HasShortID = uint16(id), true
	}
	if value, ok := p.m[featureTrusted]; ok {
		trusted, err := strconv.ParseBool(value)
		if err != nil {
			p.refuse("%s is %.40q: neither true nor false", featureTrusted, value)
		}
		f.Trusted = trusted
	}
	if value, ok := p.m[featureOverlays]; ok {
		f.Overlays, f.HasOverlays = strings.Fields(value), true
	}
	if value, ok := p.m[featureMeshd]; ok {
		f.Abilities, f.Native = strings.Fields(value), true
	}
	if value, ok := p.m[featurePort]; ok && f.Native {
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil || port == 0 {
			p.refuse("%s is %.40q: not a port", featurePort, value)
		}
		f.Port = uint16(port)
	}
	if value, ok := p.m[featureEphemeral]; ok {
		key, err := parseHexKey(value)
		if err != nil {
			p.refuse("%s: %v", featureEphemeral, err)
		}
		f.Ephemeral = key
	}
}

// parseHexKey reads a key of 64 hex digits.
func parseHexKey(s string) (*[keyLen]byte, error) {
	var key [keyLen]byte
	if len(s) != hex.EncodedLen(keyLen) {
		return nil, fmt.Errorf("a key has %d hex digits, not %d", hex.EncodedLen(keyLen), len(s))
	}
	if _, err := hex.Decode(key[:], []byte(s)); err != nil {
		return nil, fmt.Errorf("read a key: %w", err)
	}
	return &key, nil
}

// CommonOverlays gives the overlays that both ends have, in the order of ours,
// which is the order that overlay control messages count in, and whether those
// messages are tagged (tag 7 with an index) or bare (weave protocol, sections
// 2.2 and 5). A peer without the Overlays feature has sleeve. The error is
// ErrNoCommonOverlay.
func CommonOverlays(ours []string, theirs Features) (common []string, tagged bool, err error) {
	offered := theirs.Overlays
	if !theirs.HasOverlays {
		offered = []string{SleeveOverlay}
	}
	for _, name := range ours {
		if slices.Contains(offered, name) && !slices.Contains(common, name) {
			common = append(common, name)
		}
	}
	if len(common) == 0 {
		return nil, false, fmt.Errorf("%w: we have %q, the peer %.200q",
			ErrNoCommonOverlay, strings.Join(ours, " "), strings.Join(offered, " "))
	}
	return common, theirs.HasOverlays, nil
}

// onlyV1 keeps the keys that protocol 1 has.
func onlyV1(m map[string]string) map[string]string {
	out := map[string]string{}
	for _, key := range v1Features {
		if value, ok := m[key]; ok {
			out[key] = value
		}
	}
	return out
}

// featureTypeID is the gob type id of map[string]string as we define it; it is
// the one that captured routers use.
const featureTypeID = 65

// featureTypeDef defines type 65: a map from string to string, with its length.
var featureTypeDef = []byte{
	0x0e, 0xff, 0x81, // 14 bytes; definition of 65
	0x04, 0x01, 0x02, 0xff, 0x82, 0x00, // map: common part: id 65
	0x01, 0x0c, 0x01, 0x0c, 0x00, 0x00, // key and element: string
}

// appendFeatureGob appends a gob stream of one map[string]string, its keys in
// order: equal maps give equal bytes.
func appendFeatureGob(dst []byte, m map[string]string) []byte {
	value := appendGobID(nil, featureTypeID)
	value = append(value, 0)
	value = appendGobUint(value, uint64(len(m)))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		value = appendGobString(value, key)
		value = appendGobString(value, m[key])
	}
	return appendGobString(append(dst, featureTypeDef...), value)
}

// parseFeatureGob reads a stream that appendFeatureGob or encoding/gob made,
// within the bounds of section 9.2.
func parseFeatureGob(b []byte) (map[string]string, error) {
	s := newGobStream(b)
	value, id, ok := s.next()
	if !ok {
		return nil, fmt.Errorf("%w: %w", ErrFeatures, cmp.Or(s.err, errGobShort))
	}
	t := s.types[id]
	if t.kind != gobKindMap || t.key != gobString || t.elem != gobString || len(s.rest) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrFeatures, errGobType)
	}
	n := value.uint()
	if n > maxFeatures {
		return nil, fmt.Errorf("%w: %d of them, at most %d are taken", ErrFeatures, n, maxFeatures)
	}
	m := make(map[string]string, n)
	for range n {
		key := value.bytes()
		m[string(key)] = string(value.bytes())
	}
	if len(value.rest) > 0 {
		value.fail(errGobType)
	}
	if value.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFeatures, value.err)
	}
	return m, checkFeatureBounds(m)
}
