#include "cli/model_text.h"

#include <cstdio>

#include "smoe/base/error.h"

namespace smoe::cli {

ModelText open_text(const LoadedModel& loaded, const std::string& data, const std::string& name) {
  const RecordedData recorded = recorded_data(loaded.folder);
  require(!data.empty() || !recorded.path.empty(), name,
          ": does not say what text it was trained on; name one with --data");
  CorpusFiles files(data.empty() ? recorded.path : data);
  std::string sha256 = files.sha256();
  if (data.empty() && sha256 != recorded.sha256) {
    std::fprintf(stderr, "smoe: warning: %s has changed since the model was trained on it\n", files.path().c_str());
  }
  return {std::move(files), std::move(sha256)};
}

EvalLengths lengths_of(const LoadedModel& loaded, int64_t tokens) {
  return {.batch = loaded.lengths.eval_batch,
          .segment = loaded.lengths.eval_segment,
          .memory = loaded.lengths.eval_memory,
          .tokens = tokens};
}

}  // namespace smoe::cli
