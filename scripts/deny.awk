# Checks dependencies against deny.toml; scripts/deny has the usage.
#
# Input: deny.toml, Cargo.lock, and lines `NAME vVERSION|LICENCE EXPRESSION`.

FNR == 1 { part++ }

# The rules.
part == 1 && /^\[/ { section = $0; next }
part == 1 && section == "[licenses]" && /^allow = / { count = values($0); for (i = 1; i <= count; i++) allowed[value[i]] = 1 }
part == 1 && section == "[bans]" && /crate = "/ { values($0); skipped[value[1]] = 1 }
part == 1 && section == "[sources]" && /^allow-registry = / {
    count = values($0)
    for (i = 1; i <= count; i++) source["registry+" value[i]] = 1
}
part == 1 { next }

# The lock file.
part == 2 && /^name = / { values($0); name = value[1] }
part == 2 && /^source = / {
    values($0)
    if (!(value[1] in source)) fail(name ": source " value[1] " is not in allow-registry")
}
part == 2 { next }

# The packages in use: the lock file has optional ones as well.
{
    bar = index($0, "|")
    split(substr($0, 1, bar - 1), package, " v")
    version(package[1], package[2])
    expression = substr($0, bar + 1)
    checked++
    if (!permitted(expression)) fail(substr($0, 1, bar - 1) ": licence '" expression "' is not allowed")
}

END {
    for (name in versions) {
        if (versions[name] > 1) fail(name ": more than one version:" list[name])
    }
    # An empty list would permit everything.
    if (!checked) fail("no dependencies found")
    exit failed
}

function fail(what) { print "deny.toml: " what > "/dev/stderr"; failed = 1 }

# Stores the quoted strings of a line in value[], and returns their number.
function values(line,    count) {
    while (match(line, /"[^"]*"/)) {
        value[++count] = substr(line, RSTART + 1, RLENGTH - 2)
        line = substr(line, RSTART + RLENGTH)
    }
    return count
}

# Counts a version, unless deny.toml skips `NAME@` and a prefix of the version.
function version(name, number,    prefix) {
    prefix = number
    while (1) {
        if ((name "@" prefix) in skipped) return
        if (!sub(/\.[^.]*$/, "", prefix)) break
    }
    versions[name]++
    list[name] = list[name] " " number
}

# Returns whether an SPDX expression permits use under the allowed licences.
function permitted(expression) {
    gsub(/\//, " OR ", expression)
    gsub(/[()]/, " & ", expression)
    sub(/^ +/, "", expression)
    tokens = split(expression, token, / +/)
    at = 1
    return alternatives()
}

function alternatives(    result, other) {
    result = conjunction()
    while (token[at] == "OR") { at++; other = conjunction(); result = result || other }
    return result
}

function conjunction(    result, other) {
    result = licence()
    while (token[at] == "AND") { at++; other = licence(); result = result && other }
    return result
}

function licence(    result, id) {
    if (token[at] == "(") {
        at++
        result = alternatives()
        at++
        return result
    }
    id = token[at++]
    if (token[at] == "WITH") { id = id " WITH " token[at + 1]; at += 2 }
    return id in allowed
}
