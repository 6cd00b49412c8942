#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <algorithm>
#include <charconv>

#include "cli/verbs.h"
#include "smoe/base/build_info.h"
#include "smoe/base/error.h"
#include "smoe/tensor/torch_compat.h"

namespace smoe::cli {

CLI::App* add_verb(Program& program, const std::string& name, const std::string& help, const std::string& example) {
  return add_verb(program.app, name, help, example);
}

CLI::App* add_verb(CLI::App& parent, const std::string& name, const std::string& help, const std::string& example) {
  CLI::App* verb = parent.add_subcommand(name, help);
  verb->footer("Example:\n  " + example);
  return verb;
}

std::vector<int64_t> parse_numbers(const std::string& option, const std::string& text, const std::string& or_what) {
  std::vector<int64_t> numbers;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    int64_t number = 0;
    const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, number);
    require(error == std::errc() && stop == text.data() + end, option, ": '", text.substr(begin, end - begin),
            "' is not a number; ", option, " takes numbers with commas between them", or_what);
    numbers.push_back(number);
    begin = end + 1;
  }
  return numbers;
}

void ComputeOptions::add_to(CLI::App& verb) {
  verb.add_option("--threads", threads, "threads to compute with; 0: one a core")->type_name("N");
  verb.add_option("--device", device, "cpu or cuda")->type_name("NAME");
}

void ComputeOptions::apply() const {
  require(threads >= 0 && threads <= 4096, "--threads must be between 0 and 4096, got ", threads);
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  require(device.empty() || device == "cpu" || device == "cuda", "--device must be cpu or cuda, got '", device, "'");
  require(device != "cuda" || at::hasCUDA(), "--device cuda: LibTorch ", libtorch_version(),
          " sees no CUDA device; leave --device out, or build against a CUDA LibTorch");
}

std::string version_text() {
  return concat("smoe ", kVersion, " (", kBuild, ", ", kCompiler, ")\nLibTorch ", libtorch_version(),
                at::hasCUDA() ? ", CUDA" : ", no CUDA", "\nCPU ", at::get_cpu_capability(), ", ", at::get_num_threads(),
                " threads\n");
}

}  // namespace smoe::cli
