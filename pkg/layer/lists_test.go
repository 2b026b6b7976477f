package layer

import (
	"fmt"
	"slices"
)

// entriesOf are the entries of an index.
func entriesOf(ix *Index) (entries []Entry) {
	for e := range ix.All() {
		entries = append(entries, *e)
	}
	if err := ix.Err(); err != nil {
		panic(err)
	}
	return entries
}

// indexOf is the index of sorted entries.
func indexOf(entries ...Entry) *Index {
	b := newIndexBuilder(nil)
	for i := range entries {
		if err := b.add(&entries[i]); err != nil {
			panic(err)
		}
	}
	return b.ix
}

func marshal(ix *Index) []byte {
	data, err := ix.Marshal()
	if err != nil {
		panic(err)
	}
	return data
}

// checkOrder refuses entries that Stack could not search.
func checkOrder(entries []Entry) error {
	if !slices.IsSortedFunc(entries, func(a, b Entry) int { return compare(a.Path, b.Path) }) {
		return fmt.Errorf("entries out of order: %v", entries)
	}
	return nil
}
