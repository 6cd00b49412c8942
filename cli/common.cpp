#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include "cli/verbs.h"
#include "smoe/base/build_info.h"
#include "smoe/base/error.h"
#include "smoe/tensor/torch_compat.h"

namespace smoe::cli {

CLI::App* add_verb(Program& program, const std::string& name, const std::string& help, const std::string& example) {
  CLI::App* verb = program.app.add_subcommand(name, help);
  verb->footer("Example:\n  " + example);
  return verb;
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
