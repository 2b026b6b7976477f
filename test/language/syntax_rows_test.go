package language

// syntaxTables are about how a Dockerfile is read, whatever its instructions.
func syntaxTables() []table {
	return []table{
		{"directives", directiveRows()}, {"lines", lineRows()}, {"heredocs", heredocRows()}, {"expansion", expansionRows()},
		{"expanded instructions", expandedRows()}, {"errors", errorRows()},
	}
}

func directiveRows() []row {
	ok := []check{label("a", "b")}
	return []row{
		{name: "syntax", file: "# syntax=docker/dockerfile:1\nFROM scratch\nLABEL a=b\n", want: ok},
		{name: "syntax with slashes", file: "// syntax=docker/dockerfile:1.7-labs\nFROM scratch\nLABEL a=b\n",
			fails: []string{"unknown instruction: //"}},
		{name: "syntax in JSON", file: "{\"syntax\": \"example.com/x\"}\n",
			fails: []string{"example.com/x", "frontends are not run"}},
		{name: "syntax of upstream", file: "# syntax=docker.io/docker/dockerfile-upstream:master\nFROM scratch\nLABEL a=b\n",
			want: ok},
		{name: "syntax of a mirror", file: "# syntax=mirror.example.com/docker/dockerfile:1.9-labs\nFROM scratch\nLABEL a=b\n", want: ok},
		{name: "syntax of another frontend", file: "# syntax=example.com/other:1\nFROM scratch\n",
			fails: []string{"example.com/other:1", "Dockerfile:1", "docker/dockerfile"}},
		{name: "syntax after a shebang", file: "#!/usr/bin/env cairn\n# syntax=example.com/other:1\nFROM scratch\n",
			fails: []string{"example.com/other:1"}},
		{name: "syntax after an empty line is a comment", file: "\n# syntax=example.com/other:1\nFROM scratch\nLABEL a=b\n",
			want: ok},
		{name: "escape",
			file: "# escape=`\nFROM {base}\nRUN echo one > /o && `\n    echo 'a\\b' >> /o\nENV p=C:\\dir\nLABEL q=`$p\n",
			want: []check{has("/o", "one\na\\b\n"), env(`p=C:\dir`), label("q", "$p")}},
		{name: "escape in upper case", file: "# ESCAPE=`\nFROM scratch\nLABEL a=`\nb\n", want: ok},
		{name: "escape twice", file: "# escape=`\n# escape=\\\nFROM scratch\n",
			fails: []string{"only one escape parser directive can be used"}},
		{name: "escape that is none", file: "# escape=x\nFROM scratch\n", fails: []string{"invalid escape token 'x'"}},
		{name: "escape after an instruction is a comment", file: "FROM scratch\n# escape=`\nLABEL a=\\\nb\n", want: ok},
		{name: "check=skip", file: "# check=skip=MaintainerDeprecated\nFROM scratch\nMAINTAINER x\nLABEL a=b\n", want: ok,
			hides: []string{"MaintainerDeprecated"}},
		{name: "check=skip=all", file: "# check=skip=all\nfrom scratch\nMAINTAINER x\nLABEL a=b\n", want: ok,
			hides: []string{"MaintainerDeprecated", "ConsistentInstructionCasing"}},
		{name: "check=error=true", file: "# check=error=true\nFROM scratch\nMAINTAINER x\n",
			fails: []string{"lint violation found for rules: MaintainerDeprecated"}},
		{name: "check above an instruction",
			file: "FROM scratch\n# check=skip=SecretsUsedInArgOrEnv\nARG PASSWORD\nLABEL a=b\n", want: ok,
			hides: []string{"SecretsUsedInArgOrEnv"}},
		{name: "check that is misspelled", file: "# check=skpi=all\nFROM scratch\n", fails: []string{"skpi"}},
	}
}

func lineRows() []row {
	return []row{
		{name: "comments",
			file: "# a comment\nFROM {base}\n  # another\nRUN echo a > /o && \\\n# inside\n  # and another\n" +
				"    echo '# none' >> /o\n",
			want: []check{has("/o", "a\n# none\n")}},
		{name: "continuation", file: "FROM scratch\nLABEL a=1 \\\n      b=2 \\\n      c=3\n",
			want: []check{label("a", "1"), label("c", "3")}},
		{name: "continuation with blanks after it", file: "FROM scratch\nLABEL a=1 \\   \n  b=2\n", want: []check{label("b", "2")}},
		{name: "empty continuation", file: "FROM {base}\nRUN echo a \\\n\n  b > /o\n", want: []check{has("/o", "a b\n")},
			shows: []string{"NoEmptyContinuation"}},
		{name: "blanks before an instruction", file: "FROM scratch\n   LABEL a=1\n\tLABEL b=2\n",
			want: []check{label("a", "1"), label("b", "2")}},
		{name: "instructions in any case", file: "from scratch\nLabel a=1\n", want: []check{label("a", "1")}},
		{name: "CRLF", file: "FROM {base}\r\nRUN echo a \\\r\n b > /o\r\nLABEL a=1\r\n",
			want: []check{has("/o", "a b\n"), label("a", "1")}},
		{name: "byte order mark", file: "\xef\xbb\xbfFROM scratch\nLABEL a=1\n", want: []check{label("a", "1")}},
		{name: "no newline at the end", file: "FROM scratch\nLABEL a=1", want: []check{label("a", "1")}},
		{name: "unicode", file: "FROM scratch\nLABEL ünï=\"☃\"\nCOPY <<E /ü\n☃\nE\n",
			want: []check{label("ünï", "☃"), has("/ü", "☃\n")}},
		{name: "empty file", file: "# nothing\n", fails: []string{"Dockerfile"}},
	}
}

func heredocRows() []row {
	return []row{
		{name: "RUN", file: "FROM {base}\nRUN <<EOF\necho one > /o\necho two >> /o\nEOF\n",
			want: []check{has("/o", "one\ntwo\n"), layers(1)}},
		{name: "RUN stops at errors with set -e", file: "FROM {base}\nRUN <<EOF\nset -e\nfalse\necho no > /o\nEOF\n",
			fails: []string{"exit code: 1", "Dockerfile:2"}},
		{name: "RUN with variables of the shell", file: "FROM {base}\nENV v=env\nRUN <<EOF\nw=shell\necho $v $w > /o\nEOF\n",
			want: []check{has("/o", "env shell\n")}},
		{name: "RUN with a quoted name", file: "FROM {base}\nENV v=env\nRUN <<'EOF'\necho $v > /o\nEOF\n",
			want: []check{has("/o", "env\n")}},
		{name: "RUN with a shebang", file: "FROM {base}\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print 6*7 > \"/o\" }\nEOF\n",
			want: []check{has("/o", "42\n")}},
		{name: "RUN with an interpreter", file: "FROM {base}\nRUN <<EOF awk -f -\nBEGIN { print 6*7 > \"/o\" }\nEOF\n",
			want: []check{has("/o", "42\n")}},
		{name: "RUN with a command that reads it", file: "FROM {base}\nRUN cat <<EOF > /o\nread\nEOF\n",
			want: []check{has("/o", "read\n")}},
		{name: "RUN with several", file: "FROM {base}\nRUN cat <<A > /a && cat <<B > /b\none\nA\ntwo\nB\n",
			want: []check{has("/a", "one\n"), has("/b", "two\n")}},
		{name: "RUN on another descriptor", file: "FROM {base}\nRUN cat 3<<EOF <&3 > /o\nthree\nEOF\n",
			want: []check{has("/o", "three\n")}},
		{name: "RUN with tabs taken away", file: "FROM {base}\nRUN <<-EOF\n\techo one > /o\n\tEOF\n",
			want: []check{has("/o", "one\n")}},
		{name: "COPY", file: "FROM scratch\nCOPY <<EOF /o\none\n  two\nEOF\n",
			want: []check{has("/o", "one\n  two\n"), mode("/o", 0o644), owner("/o", "0:0")}},
		{name: "COPY expands", file: "FROM scratch\nENV v=val\nCOPY <<EOF /o\n$v ${v} \\$v\nEOF\n",
			want: []check{has("/o", "val val $v\n")}},
		{name: "COPY with a quoted name does not", file: "FROM scratch\nENV v=val\nCOPY <<\"EOF\" /o\n$v\nEOF\n",
			want: []check{has("/o", "$v\n")}},
		{name: "COPY with tabs taken away", file: "FROM scratch\nCOPY <<-EOF /o\n\tone\n\t\ttwo\n\tEOF\n",
			want: []check{has("/o", "one\ntwo\n")}},
		{name: "COPY with several into a directory", file: "FROM scratch\nCOPY <<a.txt <<b.txt /d/\none\na.txt\ntwo\nb.txt\n",
			want: []check{has("/d/a.txt", "one\n"), has("/d/b.txt", "two\n")}},
		{name: "COPY with files beside it", file: "FROM scratch\nCOPY f <<g /d/\nheredoc\ng\n",
			files: map[string]string{"f": "file"}, want: []check{has("/d/f", "file"), has("/d/g", "heredoc\n")}},
		{name: "COPY with --chmod and --chown", file: "FROM scratch\nCOPY --chmod=750 --chown=1:2 <<EOF /o\nx\nEOF\n",
			want: []check{mode("/o", 0o750), owner("/o", "1:2")}},
		{name: "COPY of nothing", file: "FROM scratch\nCOPY <<EOF /o\nEOF\n", want: []check{has("/o", "")}},
		{name: "ADD", file: "FROM scratch\nADD <<EOF /o\none\nEOF\n", want: []check{has("/o", "one\n")}},
		{name: "CMD", file: "FROM {base}\nCMD <<EOF\nx\nEOF\n", fails: []string{"Dockerfile"}},
		{name: "without an end", file: "FROM {base}\nRUN <<EOF\necho\n", fails: []string{"unterminated heredoc"}},
	}
}

// expand is a row in which a LABEL is expanded.
func expand(name, word, want string) row {
	return row{name: name, file: "FROM scratch\nENV v=value e= p=/a/b.tar.gz s=foofoo\nLABEL l=" + word + "\n",
		want: []check{label("l", want)}}
}

func expansionRows() []row {
	return []row{
		expand("$v", "$v", "value"), expand("${v}", "${v}x", "valuex"), expand("unset", "[$nope]", "[]"),
		expand("${v:-w}", "${v:-w}${e:-w}${n:-w}", "valueww"), expand("${v-w}", "${v-w}${e-w}${n-w}", "valuew"),
		expand("${v:+w}", "${v:+w}${e:+w}${n:+w}", "w"), expand("${v+w}", "${v+w}${e+w}${n+w}", "ww"),
		expand("${v:?w}", "${v:?w}", "value"), expand("${v?w}", "${v?w}${e?w}", "value"),
		{name: "${v:?w} of nothing", file: "FROM scratch\nLABEL l=\"${n:?must be there}\"\n",
			fails: []string{"n: must be there", "Dockerfile:2"}},
		{name: "${v?w} of nothing", file: "FROM scratch\nLABEL l=\"${n?must be there}\"\n",
			fails: []string{"n: must be there", "Dockerfile:2"}},
		expand("${v#pattern}", "${p#*/}", "a/b.tar.gz"), expand("${v##pattern}", "${p##*/}", "b.tar.gz"),
		expand("${v%pattern}", "${p%.*}", "/a/b.tar"), expand("${v%%pattern}", "${p%%.*}", "/a/b"),
		expand("${v?pattern?}", "${s#f?o}", "foo"),
		expand("${v/pattern/w} once", "${s/o/0}", "f0ofoo"), expand("${v//pattern/w} everywhere", "${s//o/0}", "f00f00"),
		expand("nested", "${n:-${m:-$v}}", "value"), expand("escaped", `\$v`, "$v"),
		expand("escaped in double quotes", `"\$v \"q\""`, `$v "q"`),
		expand("single quotes", "'$v'", "$v"), expand("double quotes", `"$v  x"`, "value  x"),
		expand("beside quotes", `a"$v"'b'`, "avalueb"),
		expand("special parameters", "[$@$*$#$?$-$!$0$1]", "[]"),
		expand("stars and question marks in patterns", "${p%.?z}", "/a/b.tar"),
		{name: "ill-formed", file: "FROM scratch\nLABEL l=${v\n", fails: []string{"Dockerfile:2"}},
		{name: "unknown modifier", file: "FROM scratch\nLABEL l=${v^^}\n", fails: []string{"Dockerfile:2"}},
		{name: "growth without bounds", file: growing(), fails: []string{"Dockerfile:"}},
	}
}

// growing doubles a variable until no machine could hold it.
func growing() string {
	text := "FROM scratch\nENV v=0123456789\n"
	for range 60 {
		text += "ENV v=$v$v\n"
	}
	return text
}

// expandedRows are the instructions in which variables are expanded, and those in which they are not.
func expandedRows() []row {
	files := map[string]string{"f": "x", "g": "y"}
	return []row{
		{name: "ADD", file: "FROM scratch\nENV s=f d=/d/\nADD $s ${d}\n", files: files, want: []check{has("/d/f", "x")}},
		{name: "COPY", file: "FROM scratch\nENV s=f d=/d/\nCOPY ${s} $d\n", files: files, want: []check{has("/d/f", "x")}},
		{name: "COPY --chown and --chmod", file: "FROM scratch\nARG o=5:6\nARG m=600\nCOPY --chown=$o --chmod=$m f /\n",
			files: files, want: []check{owner("/f", "5:6"), mode("/f", 0o600)}},
		{name: "COPY --exclude is not", file: "FROM scratch\nARG x=g\nCOPY --exclude=$x . /\n", files: files,
			want: []check{has("/f", "x"), has("/g", "y")}},
		{name: "COPY --from is not", file: "FROM scratch AS a\nFROM scratch\nARG s=a\nCOPY --from=$s /f /\n",
			fails: []string{"variable expansion is not supported for --from"}},
		{name: "RUN --mount", file: "FROM {base}\nARG t=/m\nRUN --mount=type=tmpfs,target=$t stat -f -c %T /m > /o\n",
			want: []check{has("/o", "tmpfs\n")}},
		{name: "RUN is the shell's", file: "FROM {base}\nENV v=env\nRUN v=shell; echo $v '$v' > /o\n",
			want: []check{has("/o", "shell $v\n")}},
		{name: "CMD is not", file: "FROM {base}\nENV v=1\nCMD [\"$v\"]\n", want: []check{cmd("$v")}},
	}
}

func errorRows() []row {
	return []row{
		{name: "line and excerpt", file: "FROM scratch\n\n# here\nCOPY nope /\n",
			fails: []string{"Dockerfile:4", ">>> COPY nope /", `"/nope": not found`}},
		{name: "range of lines", file: "FROM {base}\nRUN true && \\\n    exit 3\n",
			fails: []string{"Dockerfile:2", ">>> RUN true", ">>>     exit 3", "exit code: 3"}},
		{name: "misspelled instruction", file: "FROM scratch\nCOPPY a b\n",
			fails: []string{"unknown instruction: COPPY", "did you mean COPY"}},
		{name: "misspelled flag", file: "FROM scratch\nCOPY --chwon=1 a b\n",
			fails: []string{"unknown flag: --chwon", "did you mean chown"}},
		{name: "misspelled mount key", file: "FROM {base}\nRUN --mount=type=cache,tagret=/c true\n",
			fails: []string{"unexpected key 'tagret'", "target"}},
		{name: "misspelled mount type", file: "FROM {base}\nRUN --mount=type=cahce,target=/c true\n",
			fails: []string{`unsupported mount type "cahce"`, "cache"}},
		{name: "misspelled stage", file: "FROM scratch AS build\nFROM scratch\nCOPY --from=biuld /a /\n",
			fails: []string{"biuld", "build"}},
		{name: "misspelled file", file: "FROM scratch\nCOPY mian.go /\n", files: map[string]string{"main.go": "x"},
			fails: []string{"mian.go", "main.go"}},
		{name: "flag without a value", file: "FROM scratch\nCOPY --from a /\n", fails: []string{"from"}},
		{name: "flag given twice", file: "FROM scratch\nCOPY --chown=1 --chown=2 a /\n", fails: []string{"chown"}},
		{name: "flag of another instruction", file: "FROM scratch\nCOPY --mount=type=cache a /\n",
			fails: []string{"unknown flag: --mount"}},
		{name: "too few words", file: "FROM scratch\nCOPY a\n", fails: []string{"COPY requires at least two arguments"}},
	}
}
