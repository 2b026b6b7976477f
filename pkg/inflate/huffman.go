package inflate

import "math/bits"

// An entry of a table says what a code stands for:
//
//	bits 0-3    how long the code is, less what has led to a second table
//	bits 4-7    how many extra bits follow
//	bits 8-23   the literal, or the least length or distance, or where the second table begins
//	bits 28-31  kind
//
// An entry that is 0 is no code.
const (
	isLiteral = 1 << 31
	isEnd     = 1 << 30
	isTable   = 1 << 29
	isValue   = 1 << 28

	lenMask    = 15
	extraShift = 4
	valueShift = 8
)

const (
	maxCode = 15
	// primary is how many bits choose in the first table; longer codes go on in a second one.
	litPrimary  = 11
	distPrimary = 9
	maxSymbols  = 288
)

// table finds symbols.
type table struct {
	entries []uint32
	primary uint
	// second is how many bits choose in second tables.
	second uint
}

// build makes the table of a code by the lengths of its words; what gives the entry of each symbol but for the length. An incomplete code of one
// word is allowed, as is one of none, which must not be used.
func (t *table) build(lengths []uint8, primary uint, what []uint32) bool {
	var count [maxCode + 1]int
	for _, n := range lengths {
		count[n]++
	}
	count[0] = 0
	longest := uint(maxCode)
	for longest > 0 && count[longest] == 0 {
		longest--
	}
	t.primary, t.second = primary, 0
	if longest > primary {
		t.second = longest - primary
	}
	size := 1 << primary
	if cap(t.entries) < size {
		t.entries = make([]uint32, size, size+size/2)
	}
	t.entries = t.entries[:size]
	clear(t.entries)
	if longest == 0 {
		return true
	}
	var code [maxCode + 2]int
	for n := 1; n <= maxCode; n++ {
		code[n+1] = (code[n] + count[n]) << 1
	}
	if full := code[longest] + count[longest]; full != 1<<longest && (longest != 1 || full != 1) {
		return false
	}
	for sym, n := range lengths {
		if n != 0 {
			t.add(code[n], uint(n), what[sym])
			code[n]++
		}
	}
	return true
}

// add enters one word.
func (t *table) add(code int, n uint, entry uint32) {
	reversed := int(bits.Reverse16(uint16(code)) >> (16 - n))
	if n <= t.primary {
		for i := reversed; i < 1<<t.primary; i += 1 << n {
			t.entries[i] = entry | uint32(n)
		}
		return
	}
	first := reversed & (1<<t.primary - 1)
	if t.entries[first] == 0 {
		at := len(t.entries)
		for range 1 << t.second {
			t.entries = append(t.entries, 0)
		}
		t.entries[first] = isTable | uint32(at)<<valueShift | uint32(t.primary)
	}
	at := int(t.entries[first] >> valueShift & 0xffff)
	rest := n - t.primary
	for i := reversed >> t.primary; i < 1<<t.second; i += 1 << rest {
		t.entries[at+i] = entry | uint32(rest)
	}
}

// meanings are the entries of the symbols of a block.
type meanings struct {
	lit  [maxSymbols]uint32
	dist [32]uint32
	code [19]uint32
}

// newMeanings are those of RFC 1951, 3.2.5. The last two lengths and distances do not exist.
func newMeanings() *meanings {
	m := &meanings{}
	for i := range 256 {
		m.lit[i] = isLiteral | uint32(i)<<valueShift
	}
	m.lit[256] = isEnd
	for i, base := 0, 3; i < 28; i++ {
		extra := max(0, i/4-1)
		m.lit[257+i] = isValue | uint32(base)<<valueShift | uint32(extra)<<extraShift
		base += 1 << extra
	}
	m.lit[285] = isValue | 258<<valueShift
	for i, base := 0, 1; i < 30; i++ {
		extra := max(0, i/2-1)
		m.dist[i] = isValue | uint32(base)<<valueShift | uint32(extra)<<extraShift
		base += 1 << extra
	}
	for i := range m.code {
		m.code[i] = isValue | uint32(i)<<valueShift
	}
	return m
}
