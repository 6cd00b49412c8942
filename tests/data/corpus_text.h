// What the tests of texts share.
#pragma once

#include <string>

#include "smoe/base/file.h"
#include "smoe/data/corpus.h"

namespace smoe::testing {

/// A part of a text, as a string.
inline std::string text_of(const CorpusFiles& files, Split split) { return std::string(as_text(files.bytes(split))); }

}  // namespace smoe::testing
