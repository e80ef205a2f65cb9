import csv

import pytest

from amt_jax.errors import UserError
from data_prep.words.fma import read
from data_prep.words.text import Missing, Text

RAW = (
    "track_id,album_id,album_title,album_url,artist_id,artist_name,artist_url,artist_website,license_image_file,"
    "license_image_file_large,license_parent_id,license_title,license_url,tags,track_bit_rate,track_comments,"
    "track_composer,track_copyright_c,track_copyright_p,track_date_created,track_date_recorded,track_disc_number,"
    "track_duration,track_explicit,track_explicit_notes,track_favorites,track_file,track_genres,track_image_file,"
    "track_information,track_instrumental,track_interest,track_language_code,track_listens,track_lyricist,"
    "track_number,track_publisher,track_title,track_url"
)
TRACKS = {
    "album": "comments date_created date_released engineer favorites id information listens producer tags title tracks "
    "type",
    "artist": "active_year_begin active_year_end associated_labels bio comments date_created favorites id latitude "
    "location longitude members name related_projects tags website wikipedia_page",
    "set": "split subset",
    "track": "bit_rate comments composer date_created date_recorded duration favorites genre_top genres genres_all "
    "information interest language_code license listens lyricist number publisher tags title",
}
LICENCE = "Attribution-NonCommercial-ShareAlike 3.0 International"
GENRE = "[{'genre_id': '21', 'genre_title': 'Hip-Hop', 'genre_url': 'https://freemusicarchive.org/genre/Hip-Hop/'}]"


def write_raw(folder, rows):
    with open(folder / "raw_tracks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, RAW.split(","), restval="")
        writer.writeheader()
        writer.writerows(rows)


def write_tracks(folder, rows):
    """With the header of the real file: two lines of names and one with the index's name."""
    columns = [(group, name) for group, names in TRACKS.items() for name in names.split()]
    with open(folder / "tracks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", *(group for group, _ in columns)])
        writer.writerow(["", *(name for _, name in columns)])
        writer.writerow(["track_id", *("" for _ in columns)])
        for number, row in enumerate(rows, 2):
            writer.writerow([number, *(row.get(f"{group}.{name}", "") for group, name in columns)])


def test_tracks_csv_with_its_three_header_lines(tmp_path):
    first = {
        "track.title": "Food",
        "artist.name": "AWOL",
        "track.duration": "168",
        "track.genres": "[21, 4]",
        "track.genre_top": "Hip-Hop",
        "track.license": LICENCE,
        "track.information": "<p>A song about<br />food &amp; drink.</p><p>Loud.</p>",
    }
    long = "<p>" + "An album of pain. " * 10_000 + "</p>"
    album = first | {"track.title": "Electric Ave", "track.information": "", "album.information": long}
    write_tracks(tmp_path, [first, album])
    (tmp_path / "genres.csv").write_text(
        "genre_id,#tracks,parent,title,top_level\n21,8389,0,Hip-Hop,21\n4,6,0,Jazz,4\n"
    )
    food, electric = read(str(tmp_path))
    assert food == Text(
        "Food",
        "AWOL",
        "A song about\nfood & drink.\nLoud.\n",
        "fma",
        licence=LICENCE,
        genre=("Hip-Hop", "Jazz"),
        duration=168.0,
    )
    assert electric.text.startswith("An album of pain. An")
    assert len(electric.text) > 150_000
    assert electric.confidence == 0.5


def test_raw_tracks_csv(tmp_path):
    row = {"track_title": "Food", "artist_name": "AWOL", "track_duration": "02:48", "track_genres": GENRE}
    row |= {"license_title": LICENCE, "track_url": "https://example.org/food", "track_information": "Loud."}
    broken = row | {"track_title": "Broken", "track_genres": "[{'genre_id': "}
    write_raw(tmp_path, [row, row | {"track_genres": "", "track_duration": "1:00:01"}, broken])
    food, hour, missing = read(str(tmp_path))
    assert food.genre == ("Hip-Hop",)
    assert food.duration == 168
    assert (food.text, food.url, food.licence) == ("Loud.", "https://example.org/food", LICENCE)
    assert (hour.genre, hour.duration) == ((), 3601)
    assert isinstance(missing, Missing)
    assert (missing.title, missing.reason) == ("Broken", "unreadable row")


def test_rows_that_are_cut_short_are_listed(tmp_path):
    write_tracks(tmp_path, [{"track.title": "Food", "artist.name": "AWOL", "track.information": "Loud."}])
    with open(tmp_path / "tracks.csv", "a") as file:
        file.write("3,,2008-11-26\n")
    food, missing = read(str(tmp_path))
    assert food.title == "Food"
    assert (missing.title, missing.artist, missing.reason) == ("", "", "unreadable row")
    (tmp_path / "genres.csv").write_text("id,title\n21,Hip-Hop\n")
    with pytest.raises(UserError, match=r"genres.csv has no column 'genre_id'"):
        list(read(str(tmp_path)))


def test_another_folder_says_what_is_there(tmp_path):
    (tmp_path / "echonest.csv").write_text("")
    with pytest.raises(UserError, match=r"no tracks.csv.*echonest.csv"):
        list(read(str(tmp_path)))
    with pytest.raises(UserError, match="no such folder"):
        list(read(str(tmp_path / "nowhere")))


def test_a_table_of_other_columns_says_which_it_has(tmp_path):
    (tmp_path / "raw_tracks.csv").write_text("track_id,track_titel\n1,Food\n")
    with pytest.raises(UserError, match=r"'track_title' \(did you mean 'track_titel'"):
        list(read(str(tmp_path)))
    (tmp_path / "tracks.csv").write_text("a,b\nc,d\n")
    with pytest.raises(UserError, match=r"no column 'track.title'"):
        list(read(str(tmp_path)))
