# Counts idioms of prose; scripts/prose has the usage.
#
# A comment is a run of lines that begin with `//` (Rust) or `#` (shell). Of Rust files the
# messages of `#[error("..")]` attributes count as well, of pages every line outside of code.

BEGIN {
    STARTS = "comments that begin with What/Where/How/Whether/Why/Who, percent"
    bound[STARTS] = 1.5
    n_idioms = split("nobody/whoever/somebody|that of/those of|of/at/by which/what|is told/is said/says", idiom, "|")
    for (i = 1; i <= n_idioms; i++) bound[idiom[i]] = 4
}

FNR == 1 {
    end_comment()
    code = 0
    kind = FILENAME ~ /\.rs$/ ? "rust" : FILENAME ~ /\.(md|txt)$/ ? "page" : "shell"
}

kind == "rust" && /^[ \t]*\/\// { line = $0; sub(/^[ \t]*\/\/[\/!]?[ \t]?/, "", line); comment_line(line); next }
kind == "rust" {
    end_comment()
    if (match($0, /#\[error\(".*"/)) prose(substr($0, RSTART + 9, RLENGTH - 10), FNR)
    next
}
kind == "shell" && /^[ \t]*#[^!]/ { line = $0; sub(/^[ \t]*#[ \t]?/, "", line); comment_line(line); next }
kind == "shell" { end_comment(); next }
/^```/ { code = !code; next }
!code { prose($0, FNR) }

END {
    end_comment()
    report(STARTS, comments ? 100 * starts / comments : 0, starts " of " comments + 0)
    for (i = 1; i <= n_idioms; i++)
        report(idiom[i], words ? 10000 * hits[idiom[i]] / words : 0, hits[idiom[i]] + 0 " in " words + 0 " words")
    exit failed
}

function report(name, value, of) {
    printf "%-68s %6.2f (at most %s; %s)\n", name, value, bound[name], of
    if (value > bound[name]) failed = 1
}

function comment_line(text) {
    if (comment == "") { at = FNR; file = FILENAME; comment = " " }
    # Code in a doc comment is code.
    if (text ~ /^```/) { sample = !sample; return }
    if (!sample) comment = comment text " "
}

function end_comment(    first) {
    sample = 0
    if (comment == "") return
    comments++
    first = comment
    sub(/^[^A-Za-z]*/, "", first)
    sub(/[^A-Za-z].*$/, "", first)
    if (first ~ /^(What|Where|How|Whether|Why|Who|Whose|Which)$/) { starts++; show(first "..", at) }
    prose(comment, at)
    comment = ""
}

function show(what, line) {
    if (list) printf "%s:%d: %s\n", file != "" ? file : FILENAME, line, what
}

function hit(name, line) { hits[name]++; show(name, line) }

function prose(text, line,    lower, count, i, w) {
    if (comment == "") file = FILENAME
    lower = tolower(text)
    gsub(/`[^`]*`/, " x ", lower)
    # A full stop keeps the words of two sentences apart.
    gsub(/[.:;!?]/, " . ", lower)
    gsub(/[^a-z'.]+/, " ", lower)
    count = split(lower, w, " ")
    for (i = 1; i <= count; i++) {
        if (w[i] != ".") words++
        if (w[i] ~ /^(nobody|whoever|whomever|somebody)$/) hit(idiom[1], line)
        if (w[i] ~ /^(that|those)$/ && w[i + 1] == "of") hit(idiom[2], line)
        if (w[i] ~ /^(of|at|by)$/ && w[i + 1] ~ /^(which|what|whom)$/) hit(idiom[3], line)
        if (w[i] ~ /^(is|are|be|was|were|been)$/ && w[i + 1] ~ /^(told|said)$/ || w[i] == "says") hit(idiom[4], line)
    }
}
