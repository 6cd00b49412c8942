"""Broken tables of languages."""

from makers.common import add, cuts

TABLE = """families = ["germanic", "romance"]

[language.en]
files = ["en.txt", "en/*.txt"]
family = "germanic"

[language.pt-br]
files = ["pt.txt"]
family = "romance"
"""
ALONE = TABLE.replace('families = ["germanic", "romance"]\n', "").replace('family = "germanic"\n', "")


def add_languages():
    def put(name, content):
        add(f"languages/{name}.toml", content)

    put("good", TABLE)
    put("crlf", TABLE.replace("\n", "\r\n"))  # a good one
    put("each_its_own", ALONE.replace('family = "romance"\n', ""))  # a good one
    put("dotted", 'language.a.files = ["a"]\nlanguage.b.files = ["b"]\n')  # a good one
    put("empty", "")
    put("json", '{"language": {"en": {"files": ["en.txt"]}}}')
    put("nul", TABLE.encode() + b"\0")
    put("not_utf8", TABLE.encode().replace(b"en.txt", b"en\xff.txt"))
    put("a_recipe", "[model]\nlayers = 2\n")
    put("no_language", 'families = ["germanic"]\n')
    put("language_is_a_value", "language = 3\n")
    put("language_is_an_empty_table", "[language]\n")
    put("language_without_lines", TABLE + "[language.de]\n")
    put("language_in_two_places", 'language.a.files = ["a"]\nlanguage.b.files = ["b"]\nlanguage.a.family = "b"\n')
    put("language_with_a_dot", TABLE.replace("pt-br", "pt.br"))
    put("language_with_a_blank", TABLE.replace("pt-br", '"pt br"'))
    put("language_with_a_line_break", TABLE.replace("pt-br", '"a\\nb"'))
    put("language_without_a_name", TABLE.replace("pt-br", '""'))
    put("language_of_65_letters", TABLE.replace("pt-br", "p" * 65))
    put("no_files", TABLE.replace('files = ["pt.txt"]\n', ""))
    put("files_is_a_string", TABLE.replace('["pt.txt"]', '"pt.txt"'))
    put("files_is_empty", TABLE.replace('["pt.txt"]', "[]"))
    put("files_are_numbers", TABLE.replace('["pt.txt"]', "[1, 2]"))
    put("files_are_mixed", TABLE.replace('["pt.txt"]', '["pt.txt", 2]'))
    put("file_without_a_name", TABLE.replace('["pt.txt"]', '["pt.txt", ""]'))
    put("file_with_a_nul", TABLE.replace("pt.txt", "p\\u0000t.txt"))
    put("unknown_key", TABLE.replace('files = ["pt.txt"]', 'file = ["pt.txt"]'))
    put("unknown_key_with_a_line_break", '"a\\nb" = 1\n' + TABLE)
    put("families_is_a_string", TABLE.replace('["germanic", "romance"]', '"germanic"'))
    put("families_are_numbers", TABLE.replace('["germanic", "romance"]', "[0, 1]"))
    put("families_is_empty", TABLE.replace('["germanic", "romance"]', "[]"))
    put("family_twice", TABLE.replace('"romance"]', '"romance", "germanic"]'))
    put("family_with_a_blank", TABLE.replace('"romance"]', '"romance languages"]'))
    put("family_of_nobody", TABLE.replace('"romance"]', '"romance", "slavic"]'))
    put("family_unknown", TABLE.replace('family = "romance"', 'family = "romanze"'))
    put("family_with_a_line_break", TABLE.replace('family = "romance"', 'family = "a\\nb"'))
    put("family_is_a_number", TABLE.replace('family = "romance"', "family = 1"))
    put("family_missing", TABLE.replace('family = "romance"\n', ""))
    put("family_of_no_list", ALONE)
    cuts("languages/cut.toml", TABLE, 5, 40, 60, 120)
