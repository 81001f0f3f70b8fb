# Counts idioms of prose; scripts/prose has the usage.
#
# A comment is a run of lines that begin with `//` (Rust) or `#` (shell). Pages count with every line
# outside of code. String literals of Rust count as well if they hold three words: messages and help
# texts. Left out are the strings of tests and of inline assembly.

BEGIN {
    STARTS = "comments that begin with What/Where/How/Whether/Why/Who, percent"
    bound[STARTS] = 1.5
    n_idioms = split("nobody/whoever/somebody|that of/those of|of/at/by which/what|is told/is said/says", idiom, "|")
    for (i = 1; i <= n_idioms; i++) bound[idiom[i]] = 4
}

FNR == 1 {
    end_comment()
    code = in_string = assembly = test_module = test_attribute = 0
    is_test = FILENAME ~ /(^|\/)(tests|benches|fuzz|fixtures?|test-unikernels)\// || FILENAME ~ /(^|\/)(tests|testing|fixture|fake)\.rs$/
    kind = FILENAME ~ /\.rs$/ ? "rust" : FILENAME ~ /\.(md|txt)$/ ? "page" : "shell"
}

kind == "rust" && !in_string && /^[ \t]*\/\// { line = $0; sub(/^[ \t]*\/\/[\/!]?[ \t]?/, "", line); comment_line(line); next }
kind == "rust" {
    end_comment()
    if (is_test) next
    if (test_attribute && /^(pub[^ ]* )?mod [a-z_]+ \{/) test_module = 1
    test_attribute = /^#\[cfg\(.*test.*\)\]/ && !/not\(test\)/
    # A module of tests ends its file.
    if (test_module) next
    if (/asm!\(/) assembly = 1
    if (assembly) { if (/asm!\(.*\)/ || /^[ \t]*\)[;,]?[ \t}]*$/) assembly = 0; next }
    if (in_string || index($0, "\"")) strings($0)
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

# Takes the string literals of a line apart; a literal may go on in the next line.
function strings(line,    found) {
    while (1) {
        if (!in_string) {
            # Quotes in character literals open no string.
            gsub(/'\\?"'/, "", line)
            if (!match(line, /\/\/|r#+"|r?"/)) return
            found = substr(line, RSTART, RLENGTH)
            line = substr(line, RSTART + RLENGTH)
            if (found == "//") return
            in_string = 1
            literal = ""
            literal_at = FNR
            hashes = found
            gsub(/[^#]/, "", hashes)
            raw = found ~ /^r/
        }
        if (raw) found = index(line, "\"" hashes)
        else found = match(line, /^([^"\\]|\\.)*"/) ? RLENGTH : 0
        if (!found) { sub(/\\$/, "", line); literal = literal " " line; return }
        literal = literal substr(line, 1, found - 1)
        line = substr(line, found + 1 + (raw ? length(hashes) : 0))
        in_string = 0
        message(literal)
    }
}

# Counts a string literal that holds three words, placeholders aside.
function message(text,    i, count, w, found) {
    gsub(/\{[^{}]*\}/, " x ", text)
    gsub(/\\[nt]/, " ", text)
    count = split(text, w, /[ \t]+/)
    for (i = 1; i <= count; i++) if (w[i] ~ /^['(]?[A-Za-z][A-Za-z'-]+[,.;:!?)']*$/) found++
    if (found >= 3) prose(text, literal_at)
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
