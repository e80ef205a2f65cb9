import pytest

from data_prep.words.mediawiki import Wiki
from data_prep.words.text import Missing, Text
from data_prep.words.wikipedia import MIN_CONFIDENCE, find, score, searches
from tests.wiki_server import Page, WikiServer

ABBA = '"{}" is a song by the Swedish group ABBA, released as a single from their fourth studio album.'
PAGES = [
    Page("Dancing Queen", ABBA.format("Dancing Queen")),
    Page("Waterloo (ABBA song)", ABBA.format("Waterloo")),
    Page("Waterloo (album)", "Waterloo is the second studio album by the group ABBA, with the song Waterloo."),
    Page("Battle of Waterloo", "The Battle of Waterloo was fought in 1815. ABBA has a song about it."),
    Page("Waterloo", "Waterloo most commonly refers to a battle, or to a song by ABBA.", disambiguation=True),
    Page("Hello, Goodbye", '"Hello, Goodbye" is a song by the English rock band the Beatles. Hello!'),
    Page("Fernando (song)", missing=True),
    Page("Eagle (ABBA song)", " "),
    Page("Prelude and Fugue in C major, BWV 846", "The Prelude and Fugue in C major, BWV 846, is a keyboard "
         "composition by Johann Sebastian Bach."),
    Page("Prelude and Fugue in C minor, BWV 847", "The Prelude and Fugue in C minor, BWV 847, is a keyboard "
         "composition by Johann Sebastian Bach. It follows BWV 846."),
    Page("Piano Sonata No. 14 (Beethoven)", "The Piano Sonata No. 14 in C-sharp minor, marked Quasi una fantasia, "
         "Op. 27, No. 2, is a piano sonata by Ludwig van Beethoven, known as the Moonlight Sonata."),
    Page("Étude Op. 10, No. 3 (Chopin)", "Étude Op. 10, No. 3, in E major, is a study for solo piano composed by "
         "Frédéric Chopin in 1832."),
    Page("Bizarre Love Triangle", '"Bizarre Love Triangle" is a song by the English rock band New Order.'),
    Page("BLT", redirect_to="Bizarre Love Triangle"),
    Page("Thriller (album)", "Thriller is the sixth studio album by the singer Michael Jackson, with songs."),
]  # fmt: skip


@pytest.fixture(scope="module")
def wiki(tmp_path_factory):
    file = tmp_path_factory.mktemp("wiki") / "answers.sqlite"
    with WikiServer(PAGES) as server, Wiki(server.api, file, contact="a@b.c", delay=0.001, timeout=5) as wiki:
        yield wiki


@pytest.mark.parametrize(
    ("artist", "title", "page"),
    [
        ("ABBA", "Dancing Queen", "Dancing_Queen"),
        ("abba", "dancing_queen (live)", "Dancing_Queen"),
        ("ABBA", "Waterloo", "Waterloo_%28ABBA_song%29"),
        ("ABBA", "03 - Waterloo", "Waterloo_%28ABBA_song%29"),
        ("ABBA", "Waterloo.2", "Waterloo_%28ABBA_song%29"),
        ("The Beatles", "Hello Goodbye", "Hello%2C_Goodbye"),
        ("Bach", "Prelude BWV 846", "Prelude_and_Fugue_in_C_major%2C_BWV_846"),
        ("Bach", "Prelude BWV 847", "Prelude_and_Fugue_in_C_minor%2C_BWV_847"),
        ("Beethoven", "Moonlight Sonata", "Piano_Sonata_No._14_%28Beethoven%29"),
        ("Frederic Chopin", "Etude Op. 10 No. 3", "%C3%89tude_Op._10%2C_No._3_%28Chopin%29"),
        ("New Order", "BLT", "Bizarre_Love_Triangle"),
    ],
)
def test_the_page_about_the_music_is_found(wiki, artist, title, page):
    found = find(wiki, artist, title)
    assert isinstance(found, Text), found
    assert found.url == f"https://en.wikipedia.org/wiki/{page}"
    assert found.revision >= 5000
    assert found.licence == "CC BY-SA 4.0"
    assert MIN_CONFIDENCE <= found.confidence <= 1
    assert (found.artist, found.title) == (artist, title)


@pytest.mark.parametrize(
    ("artist", "title", "reason"),
    [
        ("ABBA", "Hello", "no page"),
        ("The Beatles", "Hello", "no page"),  # "Hello, Goodbye" is another song
        ("The Beatles", "Dancing Queen", "no page"),
        ("ABBA", "Fernando", "no page"),
        ("ABBA", "Eagle", "no page"),
        ("ABBA", "Battle of Waterloo", "no page is sure enough"),
        ("Michael Jackson", "Thriller", "no page is sure enough"),
        ("Bach", "Prelude BWV 999", "no page"),
    ],
)
def test_a_page_about_something_else_is_none(wiki, artist, title, reason):
    found = find(wiki, artist, title)
    assert isinstance(found, Missing), found
    assert found.reason == reason


def test_a_song_is_searched_for_as_a_song_first_and_a_work_is_not():
    assert searches("ABBA", "Dancing Queen") == ["ABBA Dancing Queen (song)", "ABBA Dancing Queen"]
    assert searches("Bach", "Prelude_BWV_846") == ["Bach Prelude BWV 846"]
    assert searches("Liszt", "Sonata") == ["Liszt Sonata"]


def test_a_search_has_no_operators():
    assert searches("AC/DC", '-Who? Made*Who~ "x" insource:/a/ (live)')[1] == "AC DC Who Made Who x insource a"
    assert searches("", "!!!") == searches("_", "&") == []
    assert len(searches("x" * 500, "y")[0]) < 300


def test_confidence_falls_with_what_is_not_known():
    page = {"title": "Dancing Queen", "extract": ABBA.format("Dancing Queen")}
    sure, nobody, other = (score(page, artist, "Dancing Queen") for artist in ("ABBA", "", "Beethoven"))
    assert sure == 1
    assert sure > nobody > MIN_CONFIDENCE > other
    assert score(page, "", "Dancing Quen") < sure
    assert score(page | {"pageprops": {"disambiguation": ""}}, "ABBA", "Dancing Queen") == 0


def test_numbers_have_to_agree():
    five = {"title": "Mambo No. 5", "extract": '"Mambo No. 5" is a song by Dámaso Pérez Prado.'}
    assert score(five, "Perez Prado", "Mambo No. 5") == 1
    assert score(five, "Perez Prado", "Mambo No. 6") == 0
    own, neighbour = ({"title": page.title, "extract": page.extract} for page in PAGES[8:10])
    assert score(own, "Bach", "Prelude_BWV_846") > score(neighbour, "Bach", "Prelude_BWV_846") > 0
