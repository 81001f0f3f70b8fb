# Lists the public items of a crate from rustdoc's pages; scripts/api has the usage.
#
# doc: directory with the crate's pages; crate: name of the crate.

BEGIN {
    modules[1] = ""
    n_modules = 1
    # The list grows while the loop reads the pages of modules.
    for (m = 1; m <= n_modules; m++) module(modules[m])
    items(page("all.html"))
}

# Returns the contents of a page.
function page(name,    text, line, file) {
    file = doc "/" name
    while ((getline line < file) > 0) text = text line "\n"
    close(file)
    if (text == "") { print "no page " file > "/dev/stderr"; exit 1 }
    return text
}

# Prints the re-exports of a module, and appends its modules to the list.
function module(path,    text, name) {
    text = page(path "index.html")
    name = separated(path)
    print "mod " crate (name == "" ? "" : "::" name)
    while (match(text, /<a class="mod" href="[^"]*\/index\.html"/)) {
        name = substr(text, RSTART + 21, RLENGTH - 32)
        # A re-export leads to the same page.
        if (!((path name) in known)) modules[++n_modules] = path name
        known[path name] = 1
        text = substr(text, RSTART + RLENGTH)
    }
    text = page(path "index.html")
    while (match(text, /id="reexport\.[^"]*"[^>]*><code>/)) {
        text = substr(text, RSTART + RLENGTH)
        print "    " plain(substr(text, 1, index(text, "</code>") - 1))
    }
}

# Prints every item that rustdoc's list has.
function items(list,    link, kind) {
    sub(/^.*<section id="main-content"/, "", list)
    while (match(list, /<a href="([a-z0-9_]+\/)*[a-z]+\.[^"]*\.html"/)) {
        link = substr(list, RSTART + 9, RLENGTH - 10)
        list = substr(list, RSTART + RLENGTH)
        kind = link
        sub(/^.*\//, "", kind)
        sub(/\..*$/, "", kind)
        item(link, kind)
    }
}

# Prints an item: its declaration, its own methods and constants, and the traits that it implements.
function item(link, kind,    text, at, traits, name) {
    name = link
    sub(/[a-z]+\./, "", name)
    sub(/\.html$/, "", name)
    print kind " " crate "::" separated(name)
    text = page(link)
    at = index(text, "<pre class=\"rust item-decl\"><code>")
    if (at) {
        text = substr(text, at + 34)
        at = index(text, "</code></pre>")
        declaration(substr(text, 1, at - 1))
        text = substr(text, at)
    }
    # A declaration of a trait has its methods. Implementations by other types are at the types.
    if (kind == "trait") return
    sub(/<h2 id="(synthetic|blanket)-implementations".*$/, "", text)
    at = index(text, "id=\"trait-implementations\"")
    traits = at ? substr(text, at) : ""
    if (at) text = substr(text, 1, at)
    sub(/<h2 id="deref-methods.*$/, "", text)
    headers(text, "h4")
    headers(traits, "h3")
}

# Prints the lines of a declaration.
function declaration(text,    count, lines, i) {
    gsub(/<\/div>/, "\n", text)
    gsub(/<summary[^>]*>([^<]|<span>|<\/span>)*<\/summary>/, "", text)
    count = split(text, lines, "\n")
    for (i = 1; i <= count; i++) if (plain(lines[i]) != "") print "    " indented(lines[i])
}

function indented(line,    indent) {
    indent = line
    gsub(/<[^>]*>/, "", indent)
    sub(/[^ ].*$/, "", indent)
    return indent plain(line)
}

# Prints the text of the headers that are code.
function headers(text, tag,    start, at) {
    start = "<" tag " class=\"code-header\">"
    while (at = index(text, start)) {
        text = substr(text, at + length(start))
        print "    " plain(substr(text, 1, index(text, "</" tag ">") - 1))
    }
}

function separated(path) { sub(/\/$/, "", path); gsub(/\//, "::", path); return path }

# Text without its markup.
function plain(text) {
    gsub(/<(br|div)[^>]*>/, " ", text)
    gsub(/<[^>]*>/, "", text)
    gsub(/&lt;/, "<", text)
    gsub(/&gt;/, ">", text)
    gsub(/&quot;/, "\"", text)
    gsub(/&#39;/, "'", text)
    gsub(/&nbsp;/, " ", text)
    gsub(/&amp;/, "\\&", text)
    # A mark of rustdoc's at types with notable traits.
    gsub(/ⓘ/, "", text)
    gsub(/[ \t\n]+/, " ", text)
    sub(/^ /, "", text)
    sub(/ $/, "", text)
    return text
}
