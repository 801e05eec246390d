use proptest::prelude::*;
use serde_json::json;

use super::*;

const TEMPLATE: &str = "
boot = \"disk\"
image = \"/srv/disk.img\"
memory = [1024]
[[reference]]
log = \"/srv/log\"
[[vm]]
name = \"a\"
[[vm]]
name = \"b\"
";

fn template() -> Template {
    Template::parse("debian", TEMPLATE).unwrap()
}

fn pcr(number: u64) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}

fn shape(template: &Template, fill: u8) -> Shape {
    let bank = template.bank;
    let mut values = PcrValues::new(bank);
    for number in [0, 4, 7, 9] {
        values.set(pcr(number), Digest::from_bytes(bank, &[fill; 32]).unwrap());
    }
    values.set(PcrIndex::LATCH, Digest::zero(bank));
    let expected = Expected::new(bank, literal_digest(&values).to_string(), vec![]);
    let change = ChangedEvent {
        pcr: pcr(9),
        kind: Some(ChangeKind::Initrd),
        follows: false,
        old: None,
        new: Some(("initrd".to_owned(), "01020304".to_owned())),
        files: vec!["/boot/initrd".to_owned()],
    };
    let kinds = vec![MachineKind { memory: Some(1024), cpus: None }];
    let entry = Some("deb.conf".to_owned());
    Shape { entry, machine: None, kinds, values, signed: 0, changes: vec![change], expected }
}

fn forecasts(template: &Template) -> Forecasts {
    let signed = vec![PcrSelection::new(template.bank, [0, 4, 7, 9].map(pcr))];
    let shapes = vec![shape(template, 1), shape(template, 2)];
    let boots: Vec<_> = shapes.iter().map(|it| (approved(it, &signed).unwrap(), 0)).collect();
    let vm = VmForecast { boots, open: vec![] };
    let open = VmForecast { boots: vec![], open: vec!["PCR 4 cannot be told".to_owned()] };
    let left_out = [("rescue.conf".to_owned(), "other words".to_owned())].into();
    Forecasts { shapes, signed, vms: vec![vm, open], left_out }
}

#[test]
fn an_answer_is_read_as_it_was_given() {
    let template = template();
    let forecasts = forecasts(&template);
    let text = to_text(&template, &Ok(forecasts.clone()));
    assert_eq!(parse(&template, text.as_bytes()), Ok(Ok(forecasts)));
    let refused = to_text(&template, &Err("no\u{1b}[2J file system".to_owned()));
    let read = parse(&template, refused.as_bytes()).unwrap().unwrap_err();
    assert_eq!(read, r"no\u{1b}[2J file system");
}

/// Two machines with words on their disks, which are the same words.
const OWN: &str = "
boot = \"disk\"
image = \"/srv/disk.img\"
grubenv = \"own\"
memory = [1024]
[[reference]]
log = \"/srv/log\"
[[vm]]
name = \"a\"
cmdline = \"vmseal.pin=ab\"
[[vm]]
name = \"b\"
cmdline = \"vmseal.pin=ab\"
";

fn own_forecasts(template: &Template) -> Forecasts {
    let signed = vec![PcrSelection::new(template.bank, [0, 4, 7, 9].map(pcr))];
    let mut shapes = vec![shape(template, 1)];
    for name in ["a", "b"] {
        let mut own =
            Shape { machine: Some(name.to_owned()), changes: vec![], ..shape(template, 1) };
        own.values.set(pcr(9), Digest::from_bytes(template.bank, &[3; 32]).unwrap());
        let policy = literal_digest(&own.values).to_string();
        own.expected = Expected::new(template.bank, policy, vec![]);
        shapes.push(own);
    }
    let boot = (approved(&shapes[1], &signed).unwrap(), 0);
    let vms = vec![VmForecast { boots: vec![boot], open: vec![] }; 2];
    Forecasts { shapes, signed, vms, left_out: [].into() }
}

#[test]
fn boots_of_machines_with_words_of_their_own_are_theirs_alone() {
    let template = Template::parse("debian", OWN).unwrap();
    let forecasts = own_forecasts(&template);
    let text = to_text(&template, &Ok(forecasts.clone()));
    assert_eq!(parse(&template, text.as_bytes()), Ok(Ok(forecasts)));
    let refused = |pointer: &str, to: Value, why: &str| {
        let mut told: Value = serde_json::from_str(&text).unwrap();
        *told.pointer_mut(&format!("/forecasts{pointer}")).expect(pointer) = to;
        let found = parse(&template, told.to_string().as_bytes()).unwrap_err();
        assert!(found.contains(why), "{pointer}: {found}");
    };
    refused("/machines/0/boots", json!([2]), "not told of it");
    refused("/machines/0/boots", json!([0]), "not told of it");
    refused("/boots/1/machine", json!("c"), "words of a machine that has none");
    let good: Value = serde_json::from_str(&text).unwrap();
    for (boot, most) in [(0, MAX_BOOTS), (1, MAX_OWN_BOOTS)] {
        let boot = &good["forecasts"]["boots"][boot];
        refused("/boots", json!(vec![boot; most + 1]), "too many boots");
    }
    // Another kernel than that of the boot without its words.
    let mut other = own_forecasts(&template);
    for values in other.shapes.iter_mut().skip(1).map(|shape| &mut shape.values) {
        values.set(pcr(4), Digest::from_bytes(template.bank, &[3; 32]).unwrap());
    }
    for shape in &mut other.shapes {
        let policy = literal_digest(&shape.values).to_string();
        shape.expected = Expected::new(template.bank, policy, vec![]);
    }
    let text = to_text(&template, &Ok(other));
    assert!(parse(&template, text.as_bytes()).unwrap_err().contains("a machine's own boot"));
}

#[test]
fn a_question_is_read_as_it_was_asked() {
    let expected = shape(&template(), 3).expected;
    let question = Question {
        name: "debian".to_owned(),
        template: TEMPLATE.to_owned(),
        approved: vec![expected],
        public: "PEM".to_owned(),
    };
    assert_eq!(Question::parse(question.to_text().as_bytes()), Ok(question));
    assert!(Question::parse(b"{}").is_err());
}

/// Whoever took the process over may say anything.
#[test]
fn what_does_not_fit_together_is_refused() {
    let template = template();
    let good: Value = serde_json::from_str(&to_text(&template, &Ok(forecasts(&template)))).unwrap();
    let refused = |pointer: &str, to: Value, why: &str| {
        let mut told = good.clone();
        *told.pointer_mut(&format!("/forecasts{pointer}")).expect(pointer) = to;
        let found = parse(&template, told.to_string().as_bytes()).unwrap_err();
        assert!(found.contains(why), "{pointer}: {found}");
    };
    let other = "03".repeat(32);
    // Values without the events that are of them, PCRs that bind nothing, a boot nobody is shown.
    refused("/boots/0/pcrs/4", json!(other), "events of another boot");
    refused("/boots/0/pcrs/15", json!(other), "latched");
    refused("/boots/0/pcrs/4", json!("03"), "");
    refused("/boots/0/pcrs", json!({}), "other PCRs than the signed ones");
    refused("/boots/0/signed", json!(1), "PCRs that are not told");
    refused("/boots/0/kinds", json!([[2048, null]]), "a machine that the template does not have");
    refused("/boots/0/entry", json!("\u{1b}[2J"), "cannot be shown");
    refused("/boots/0/entry", json!("x".repeat(5000)), "cannot be shown");
    refused("/boots/0/changes/0/kind", json!("magic"), "no known kind");
    refused("/boots/0/changes/0/pcr", json!(24), "24");
    refused("/boots/0/changes/0/new", json!(["\n", ""]), "cannot be shown");
    refused("/boots/0/changes/0/files", json!(["\u{7f}"]), "cannot be shown");
    refused("/boots/0/events/bank", json!("sha1"), "events");
    refused("/signed", json!([[]]), "cover no boot");
    refused("/signed", json!([[0, 4, 7, 15]]), "cover no boot");
    refused("/signed", json!([[4, 9, 16]]), "cover no boot");
    refused("/signed", json!([[9], [9], [9]]), "PCRs that no boot has");
    refused("/machines", json!([]), "other machines");
    refused("/machines/0/boots", json!([2]), "not told");
    refused("/machines/0/boots", json!([0, 0, 0]), "twice");
    refused("/machines/0/open", json!(["\u{9b}"]), "cannot be shown");
    refused("/left_out/0", json!(["\r", ""]), "cannot be shown");
    for told in [json!({}), json!({ "forecasts": {} }), json!([]), json!({ "refused": "\u{1b}" })] {
        assert!(parse(&template, told.to_string().as_bytes()).is_err(), "{told}");
    }
}

proptest! {
    /// Whatever else is said is refused, or names only boots that are shown.
    #[test]
    fn any_answer_signs_only_what_it_shows(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let template = template();
        let mut bytes = to_text(&template, &Ok(forecasts(&template))).into_bytes();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Ok(told)) = parse(&template, &bytes) {
            let shown: Vec<_> = told.shapes.iter().map(|it| approved(it, &told.signed)).collect();
            for (boot, _) in told.vms.iter().flat_map(|vm| &vm.boots) {
                prop_assert!(shown.contains(&Some(*boot)));
            }
        }
    }

    #[test]
    fn noise_is_no_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse(&template(), &bytes).is_err());
    }
}
