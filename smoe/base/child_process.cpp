#include "smoe/base/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

#include "smoe/base/error.h"

namespace smoe {
namespace {

constexpr int kCannotRun = 127;

[[noreturn]] void fail(const std::string& what) { throw Failure(what + ": " + std::system_category().message(errno)); }

/// A file as a descriptor, which programs that are started do not inherit.
class Redirection {
 public:
  Redirection(const std::filesystem::path& path, int flags) : value_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (value_ < 0) fail(path.string());
  }
  ~Redirection() { ::close(value_); }
  Redirection(const Redirection&) = delete;
  Redirection& operator=(const Redirection&) = delete;

  int value() const { return value_; }

 private:
  int value_;
};

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

}  // namespace

ChildProcess::ChildProcess(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                           const std::filesystem::path& out, const std::filesystem::path& log) {
  const Redirection input("/dev/null", O_RDONLY), output(out, O_WRONLY | O_CREAT | O_TRUNC),
      errors(log, O_WRONLY | O_CREAT | O_APPEND);
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) fail("cannot start " + program.string());
  if (pid_ == 0) {  // only calls that are safe between fork and exec
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(kCannotRun);  // it died before we asked to be told
    ::dup2(input.value(), STDIN_FILENO);
    ::dup2(output.value(), STDOUT_FILENO);
    ::dup2(errors.value(), STDERR_FILENO);
    ::execv(program.c_str(), argv.data());
    ::_exit(kCannotRun);
  }
}

ChildProcess::~ChildProcess() {
  if (poll()) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::optional<int> ChildProcess::poll() {
  int status = 0;
  if (!code_ && ::waitpid(pid_, &status, WNOHANG) == pid_) code_ = code_of(status);
  return code_;
}

void ChildProcess::signal(int number) {
  if (!poll()) ::kill(pid_, number);
}

}  // namespace smoe
