// Errors: one type for the caller's mistakes, one for ours, and a check that composes its message only when it fails.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace smoe {

/// The caller's mistake (a name, a value, a file); the message says what, where and what would be right. Exit code 2.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A failure that is not the caller's mistake (disk full, a loss that is not finite). Exit code 1.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The arguments, streamed one after the other into a string.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws UserError with the parts as its message unless `ok`.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) throw UserError(concat(parts...));
}

}  // namespace smoe
