use super::*;

fn standing(demoted: Option<Demotion>) -> Standing {
    Standing { mode: Mode::Auto, since: Timestamp(0), content: "c".into(), demoted, proposed: None }
}

#[test]
fn i11_however_many_playbooks_come_one_that_was_taken_back_stays_so() {
    let (mut promotions, mut batch) = (Promotions::default(), Batch::default());
    let taken_back = PlaybookName::new("taken-back");
    let demotion =
        Demotion { from: Mode::Auto, to: Mode::Shadow, at: Timestamp(1), because: "a wrong act".into() };
    promotions.stand(&taken_back, standing(Some(demotion.clone())), &mut batch);
    for n in 0..2 * MAX_PLAYBOOKS {
        promotions.stand(&PlaybookName::new(format!("p{n}")), standing(None), &mut batch);
        promotions.bound(&mut batch);
    }
    assert_eq!(promotions.books.len(), MAX_PLAYBOOKS);
    assert_eq!(promotions.demotion(&taken_back), Some(demotion));
}
