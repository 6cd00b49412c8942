#include "smoe/base/child_process.h"

#include <gtest/gtest.h>

#include <csignal>
#include <thread>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

class Children : public ::testing::Test {
 protected:
  ChildProcess shell(const std::string& script) {
    return ChildProcess("/bin/sh", {"-c", script}, folder_ / "out", folder_ / "log");
  }
  static int wait_for(ChildProcess& child) {
    for (int i = 0; i < 2000; ++i) {
      if (const auto code = child.poll()) return *code;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return -1;
  }
  TempFolder folder_;
};

TEST_F(Children, OutputErrorsAndExitCodeComeBack) {
  ChildProcess child = shell("echo words; echo complaint >&2; exit 3");
  EXPECT_EQ(wait_for(child), 3);
  EXPECT_EQ(child.poll(), 3);
  EXPECT_EQ(read_file(folder_ / "out"), "words\n");
  EXPECT_EQ(read_file(folder_ / "log"), "complaint\n");
}

TEST_F(Children, OutputIsMadeNewAndTheLogGoesOn) {
  for (int i = 0; i < 2; ++i) {
    ChildProcess child = shell("echo once; echo again >&2");
    EXPECT_EQ(wait_for(child), 0);
  }
  EXPECT_EQ(read_file(folder_ / "out"), "once\n");
  EXPECT_EQ(read_file(folder_ / "log"), "again\nagain\n");
}

TEST_F(Children, HasNoInput) {
  ChildProcess child = shell("read line || echo none");
  EXPECT_EQ(wait_for(child), 0);
  EXPECT_EQ(read_file(folder_ / "out"), "none\n");
}

TEST_F(Children, ASignalReachesItAndShowsInTheCode) {
  ChildProcess caught = shell("trap 'exit 7' INT; echo ready; while :; do sleep 0.01; done");
  while (read_file(folder_ / "out").empty()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(caught.poll(), std::nullopt);
  caught.signal(SIGINT);
  EXPECT_EQ(wait_for(caught), 7);
  ChildProcess killed = shell("sleep 60");
  killed.signal(SIGKILL);
  EXPECT_EQ(wait_for(killed), 128 + SIGKILL);
}

TEST_F(Children, DiesWithItsOwner) {
  {
    ChildProcess child = shell("sleep 0.3; echo survived > " + (folder_ / "mark").string());
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "mark"));
}

TEST_F(Children, WhatCannotRunSaysSo) {
  ChildProcess child(folder_ / "nothing", {}, folder_ / "out", folder_ / "log");
  EXPECT_EQ(wait_for(child), 127);
  EXPECT_THROW(ChildProcess("/bin/sh", {}, folder_ / "no" / "out", folder_ / "log"), Failure);
}

}  // namespace
}  // namespace smoe
