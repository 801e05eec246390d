use super::*;

fn first(text: &str) -> Command {
    match parse(&Script::of_file(text)).unwrap().remove(0) {
        Statement::Run(command) => command,
        other => panic!("{other:?}"),
    }
}

fn error(text: &str) -> SyntaxError {
    parse(&Script::of_file(text)).unwrap_err()
}

#[test]
fn a_block_keeps_its_bytes_but_for_lines_of_comment() {
    let Command::Simple { block: Some(block), words, line } =
        first("# x\nmenuentry 'A b' {\r\n\tlinux /k  a # why\n# gone\n  boot }\n")
    else {
        panic!()
    };
    assert_eq!(block.text, "\n\tlinux /k  a # why\n  boot ");
    assert_eq!((block.line, line), (2, 2));
    assert_eq!(words.len(), 2);
}

#[test]
fn quotes_variables_and_continued_lines_make_one_word() {
    let Command::Simple { words, .. } = first("a\\\nb$x\"c $y\\\"\"'d $z'${1}\\ e \\\n f") else {
        panic!()
    };
    let expected = [
        Part::Text("ab".into()),
        Part::Variable("x".into()),
        Part::Quoted("c ".into()),
        Part::QuotedVariable("y".into()),
        Part::Quoted("\"".into()),
        Part::Quoted("d $z".into()),
        Part::Variable("1".into()),
        Part::Text("\\ e".into()),
    ];
    assert_eq!(words[0].0, expected);
    // A continuation by itself is a word without parts, which expands to no argument.
    assert_eq!(words[1].0, []);
    assert_eq!(words[2].0, [Part::Text("f".into())]);
}

#[test]
fn conditions_nest_and_reserved_words_are_arguments() {
    let Command::If { branches, otherwise, .. } =
        first("if a; then echo if fi\nelif b\nthen\n c; else d; fi")
    else {
        panic!()
    };
    assert_eq!((branches.len(), otherwise.len()), (2, 1));
}

#[test]
fn what_grub_refuses_is_refused_with_its_line() {
    for (text, line) in [
        ("a\nb || c", 2),
        ("menuentry x { }", 1),
        ("if a then b; fi", 2),
        ("function f { a }", 1),
        ("echo $", 2),
        ("echo \"a", 2),
        ("a;;b", 1),
        ("[[ a ]]", 1),
        ("}", 1),
    ] {
        let found = error(text).line;
        assert!(found == line || found + 1 == line, "{text}: {found}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = "menuentry a {\n".repeat(40_000);
    assert!(error(&nested).expected.contains("nesting"));
    assert!(parse(&Script::of_file(&"{".repeat(1 << 20))).is_err());
    let branches = format!("if a; then b; {} fi", "elif a; then b;\n".repeat(20_000));
    assert_eq!(parse(&Script::of_file(&branches)).unwrap().len(), 1);
}
