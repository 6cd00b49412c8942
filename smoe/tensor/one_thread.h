// Matrix products on one thread, where how a library shares a product among threads must not show in its bits.
#pragma once

namespace smoe {

/// While it lives, the products that the thread which made it asks of MKL run on that thread alone. MKL otherwise
/// chooses a way to cut a product by its size and by the number of threads, inside a parallel region too, and the way
/// shows in the last bits. Without MKL it does nothing. Products of other threads are not touched.
class OneThreadProducts {
 public:
  OneThreadProducts();
  ~OneThreadProducts();
  OneThreadProducts(const OneThreadProducts&) = delete;
  OneThreadProducts& operator=(const OneThreadProducts&) = delete;

 private:
  int before_ = 0;
};

}  // namespace smoe
