"""Plans, artifacts and notes of stages, for tests."""

from yacs.config import CfgNode

from dataset.estimate import estimate as estimate_dataset
from dataset.plan import plan as plan_dataset
from finetune.estimate import estimate as estimate_finetuning
from finetune.plan import plan as plan_finetuning
from finetune.search.search import Search
from pipeline.stage_plan import Estimate
from pipeline.store.artifacts import Artifact
from pretrain.estimate import estimate as estimate_pretraining
from pretrain.plan import plan as plan_pretraining
from result_collection.estimate import estimate as estimate_results
from result_collection.plan import plan as plan_results


def dataset_artifact(config: CfgNode) -> Artifact:
    return plan_dataset(config).artifact


def pretrain_artifact(config: CfgNode) -> Artifact:
    return plan_pretraining(config).artifact


def finetune_artifact(config: CfgNode) -> Artifact:
    return plan_finetuning(config).artifact


def result_artifact(config: CfgNode) -> Artifact:
    return plan_results(config).artifact


def load_search(config: CfgNode) -> Search:
    return plan_finetuning(config).search


def dataset_estimate(config: CfgNode) -> Estimate:
    return estimate_dataset(config, plan_dataset(config))


def pretrain_estimate(config: CfgNode) -> Estimate:
    return estimate_pretraining(config, plan_pretraining(config))


def finetune_estimate(config: CfgNode) -> Estimate:
    return estimate_finetuning(config, plan_finetuning(config))


def result_estimate(config: CfgNode) -> Estimate:
    return estimate_results(config, plan_results(config))
