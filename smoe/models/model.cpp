#include "smoe/models/model.h"

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"
#include "smoe/kernels/cross_entropy.h"
#include "smoe/models/transformer_xl.h"

namespace smoe {

const std::vector<ModelKind>& model_kinds() {
  static const std::vector<ModelKind> kKinds = {
      {"transformer_xl", "Transformer-XL: relative attention with a memory of past segments",
       [](const ModelSpec& spec, const RandomStream& random) -> std::shared_ptr<LanguageModel> {
         return std::make_shared<TransformerXl>(spec, random);
       }},
  };
  return kKinds;
}

std::shared_ptr<LanguageModel> make_model(const ModelSpec& spec, const RandomStream& random) {
  spec.check();
  std::vector<std::string> names;
  for (const ModelKind& kind : model_kinds()) {
    if (kind.name == spec.model.kind) return kind.make(spec, random);
    names.push_back(kind.name);
  }
  throw UserError("model.kind '" + spec.model.kind + "' is not known" + suggest(spec.model.kind, names));
}

std::optional<RouterTraits> LanguageModel::router_traits() const {
  const std::vector<MoeLayer*> layers = mixtures();
  return layers.empty() ? std::nullopt : std::optional(layers.front()->router().traits());
}

Dial LanguageModel::dial() const {
  const std::optional<RouterTraits> traits = router_traits();
  return traits ? traits->dial : Dial::kNone;
}

at::Tensor mean_nll(const at::Tensor& logits, const at::Tensor& targets) {
  return mean_cross_entropy(logits.reshape({-1, logits.size(-1)}), targets.reshape({-1}));
}

}  // namespace smoe
