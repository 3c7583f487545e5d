// Package doctor examines a running Go program from outside and says what is wrong with
// it, where, why, and what would mend it: goroutines that leak, memory that grows, locks
// that many wait for, time spent where it need not be.
//
// It needs of the program only that it serves net/http/pprof, and imports nothing of
// Penstock. Take fetches, Analyse judges what was fetched, and Compare judges two reports;
// a Capture can be saved in between and judged again. Nothing that a target sends is
// trusted: sizes, counts and times are bounded, and a report is only text.
//
// The one thing a reader would get wrong: counts do not make a leak. A place that fills is
// a queue, a pool or a burst as often. What is judged is who came, who left and who stayed
// longer than those who left, by the numbers that goroutines keep for life (tracks.go).
package doctor
