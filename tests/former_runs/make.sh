#!/usr/bin/env bash
# Make the run folders of every env, with the code of commit d09cce8: PYTHON is that of an environment in which it is installed.
# usage: PYTHON=… ./make.sh [PART…], where a part is one of the functions below
set -euo pipefail
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python}
export OMP_NUM_THREADS=1 SIDETUNE_HOME=${SIDETUNE_HOME:-$(mktemp -d)}

sidetune() { "$PYTHON" -c 'import sys; from sidetune_core.cli import main; sys.exit(main())' "$@"; }
sidetune-run() { "$PYTHON" -c 'import sys; from sidetune_core.cli import main_run; sys.exit(main_run())' "$@"; }

# make ENV TASK STEP WORD…: a finished run, and one that was killed in front of step STEP of its last task TASK.
make() {
    local env=$1 task=$2 step=$3
    shift 3
    echo "== $env"
    rm -rf "runs/$env"
    mkdir -p "runs/$env"
    printf '%q ' "$@" >"runs/$env/command"
    sidetune-run "$@" --out "runs/$env/done" --quiet >/dev/null
    "$PYTHON" kill.py "$task" "$step" "$@" --out "runs/$env/killed" --quiet && exit 1
    test -f "runs/$env/killed/checkpoints/within.safetensors"
    rm -rf "runs/$env"/*/tb
}

digits() {
    make digits t1 28 --env digits --env.tasks 2 --env.partition random --base mlp --base.width 1 --base.layers 1 --base.weights none \
        --side conv --side.weights none --merger alpha --merger.per channel --merger.start 0.6 --learner sidetune --learner.no-norm --seed 3 \
        --train.steps 40 --train.batch 24 --train.lr 0.02 --train.clip 0.7 --train.eps 1e-6 --train.store disk --train.store-limit 0.5 \
        --train.store-dir data/digits/store --train.device cpu --train.precision fp32 --train.channels-last True --save-every 15
}

icifar() {
    make icifar t1 28 --env icifar --env.archive data/icifar/cifar100.npz --env.classes-per-task 2 --env.tasks 2 --env.augment crop-flip \
        --base mlp --base.width 2 --base.layers 1 --base.weights none --learner ewc --learner.coef 5 --learner.fisher sample \
        --learner.examples 12 --learner.no-norm --seed 1 --train.steps 40 --train.batch 4 --train.accumulate 2 --train.optimizer sgd \
        --train.momentum 0.8 --train.lr 0.05 --train.clip None --train.store off --train.device cpu --train.precision fp32 \
        --train.channels-last False --save-every 15
}

cifar10() {
    make cifar10 t1 28 --env cifar10 --env.archive data/cifar10/cifar10.npz --env.classes-per-task 2 --env.holdout 0.25 \
        --base mlp --base.width 1 --base.layers 1 --base.weights none --learner lwf --learner.coef 0.5 --learner.temperature 3 \
        --learner.no-norm --seed 2 --train.epochs 20 --train.batch 6 --train.optimizer adamw --train.weight-decay 0.01 --train.lr 0.01 \
        --train.schedule one-cycle --train.warmup 0.3 --train.clip 2.5 --train.eps 1e-7 --train.device cpu --train.precision fp32 \
        --save-every 15
}

images() {
    make images t1 28 --env images --env.folder data/images --env.size 8 --env.classes-per-task 2 --env.test-fraction 0.4 --env.holdout 0.2 \
        --base mlp --base.width 6 --base.layers 2 --base.weights none --side mlp --side.width 6 --merger mlp --learner pnn \
        --learner.adapter linear --learner.dense --seed 4 --train.steps 40 --train.batch 5 --train.lr 0.01 --train.clip 0.9 \
        --train.store memory --train.store-limit 0.25 --train.device cpu --train.precision fp32 --save-every 15
}

squad() {
    make squad t1 8 --env squad --env.train data/squad/squad.json --env.test-articles Article_2,Article_3 --env.tasks 2 \
        --env.tokenizer data/squad/tiny-bert --env.window 40 --env.stride 12 --env.longest 7 --env.n-best 3 --env.null-threshold 0.5 \
        --base transformer --base.model data/squad/tiny-bert --base.weights none --side ladder-text --side.width 4 --side.heads 2 \
        --merger alpha --merger.mode linear --merger.end 0.3 --merger.horizon 60 --learner sidetune --seed 5 --train.steps 12 \
        --train.batch 4 --train.lr 0.05 --train.clip 0.8 --train.eps 1e-7 --train.store-limit 0.5 --train.device cpu \
        --train.precision fp32 --save-every 5
}

taskonomy() {
    make taskonomy reshading 8 --env taskonomy --env.root data/taskonomy --env.domains normal,reshading --env.train hanson,merom \
        --env.test klickitat --env.size 32 --env.faults drop --env.decoder 8 --env.cache data/taskonomy/decoded --env.test-images 2 \
        --base taskonomy --base.width 1 --base.weights none --side mlp --side.width 2 --side.weights none --learner distill --learner.coef 0.3 \
        --seed 6 --train.steps 12 --train.batch 4 --train.optimizer sgd --train.momentum 0.0 --train.lr 0.05 --train.clip 1.5 --train.device cpu --train.precision fp32 --save-every 5
}

rgbd() {
    make rgbd normal 8 --env rgbd --env.frames data/rgbd --env.domains depth_zbuffer,normal --env.size 32 --env.farthest 6 \
        --env.window 3 --env.test-fraction 0.2 --env.images 5 --env.decoder 8 --base taskonomy --base.width 1 --base.weights none \
        --learner joint --learner.batchnorm frozen --seed 7 --train.steps 12 --train.batch 3 --train.optimizer sgd --train.momentum 0.0 --train.lr 0.05 --train.clip 0.6 \
        --train.device cpu --train.precision fp32 --save-every 5
}

rooms() {
    make rooms reshading 8 --env rooms --env.domains normal,reshading --env.images 6 --env.test-images 2 --env.size 32 --env.series 1 \
        --env.decoder 8 --env.no-cache --base taskonomy --base.width 1 --base.weights none --learner features --seed 8 --train.steps 12 --train.batch 3 --train.optimizer sgd --train.momentum 0.0 --train.lr 0.05 --train.clip 0.4 --train.device cpu --train.precision fp32 --save-every 5
}

gym() {
    make gym t1 22 --env gym --env.ids MiniGrid-Empty-5x5-v0,MiniGrid-Empty-Random-5x5-v0 --env.inputs image --env.view pixels --env.grey \
        --env.size 8 --env.stack 2 --env.time-limit 40 --env.success 0.7 --env.metric success --env.arguments '{"agent_view_size": 5}' \
        --env.envs 3 --env.rollout 16 --env.frames 384 --env.passes 2 --env.gamma 0.9 --env.gae-lambda 0.8 --env.clip 0.3 --env.clip-value 0.4 \
        --env.value-coef 0.6 --env.entropy-coef 0.02 --env.no-normalise-advantages --env.normalise-rewards --env.hidden 6 \
        --env.layers 2 --env.episodes 20 --env.evaluate sample --base mlp --base.width 6 --base.weights none --side mlp --side.width 6 \
        --merger alpha --merger.per channel --learner sidetune --seed 9 --train.epochs 1 --train.batch 24 --train.lr 0.01 \
        --train.clip 0.7 --train.eps 1e-6 --train.schedule cosine --train.device cpu --train.precision fp32 --save-every 5
}

# Recordings of BabyAI's bot, and of the policy of a run of gym.
recordings() {
    local red=(--env gym --env.ids BabyAI-GoToRedBallNoDists-v0 --env.inputs image --env.view pixels --env.size 8 --env.time-limit 24)
    rm -rf data/imitation && mkdir -p data/imitation
    printf '%q ' "${red[@]}" >data/imitation/command
    sidetune collect "${red[@]}" --trajectories 8 --out data/imitation/red-ball --quiet
    red[3]=BabyAI-GoToRedBallGrey-v0
    sidetune collect "${red[@]}" --seed 3 --trajectories 8 --out data/imitation/red-ball-grey --quiet
    sidetune collect --expert runs/gym/done --task t1 --trajectories 3 --out data/imitation/policy --quiet
}

imitation() {
    make imitation t1 48 --env imitation --env.data data/imitation/red-ball,data/imitation/red-ball-grey --env.held-out 2 \
        --env.trajectories 6 --env.episodes 20 --env.envs 4 --env.evaluate mode --env.metric success --env.hidden 6 --env.layers 1 \
        --base mlp --base.width 6 --base.weights none --learner bsp --learner.period 2 --seed 10 --train.steps 80 --train.batch 16 --train.lr 0.01 \
        --train.clip 0.5 --train.device cpu --train.precision fp32 --save-every 30
}

# In an environment with habitat-lab, and with examples/habitat-rooms in $PYTHONPATH.
habitat() {
    local sensors=habitat.simulator.agents.main_agent.sim_sensors small
    small=habitat.simulator.type=Rooms-v0,habitat.simulator.turn_angle=90,habitat.environment.max_episode_steps=10
    small+=",habitat.dataset.data_path='data/habitat/{split}/{split}.json.gz',habitat.dataset.scenes_dir=data/habitat/scenes"
    small+=,$sensors.rgb_sensor.width=8,$sensors.rgb_sensor.height=8,$sensors.depth_sensor.width=8,$sensors.depth_sensor.height=8
    make habitat t1 18 --env habitat --env.imports habitat_rooms --env.config pointnav_gibson.yaml --env.overrides "$small" \
        --env.tasks 'habitat.simulator.forward_step_size=0.5;habitat.simulator.forward_step_size=1.0,habitat.task.slack_reward=-0.02' \
        --env.inputs image,goal --env.stack 2 --env.oracle-stop --env.blind --env.metric success --env.envs 2 --env.rollout 16 \
        --env.frames 256 --env.passes 2 --env.gamma 0.95 --env.gae-lambda 0.9 --env.clip 0.25 --env.entropy-coef 0.01 --env.hidden 6 \
        --env.layers 1 --env.evaluate sample --env.timeout 120 --base mlp --base.width 6 --base.weights none --learner independent \
        --seed 11 --train.epochs 1 --train.batch 16 --train.lr 0.01 --train.clip 0.7 --train.device cpu --train.precision fp32 \
        --save-every 5
}

# A run with the original authors' weights, without its checkpoints and probes: it is reported and used as a spec, and nothing else.
# Their files are below $SIDETUNE_HOME/weights.
seed() {
    rm -rf runs/seed && mkdir -p runs/seed
    local words=(--env cifar10 --env.archive data/cifar10/cifar10.npz --env.classes-per-task 4 --base resnet44 --base.weights seed \
        --side fcn4 --side.weights seed --merger mlp2 --learner sidetune --learner.dense --train.steps 4 --train.batch 8 --train.lr 0.01 \
        --train.device cpu --train.precision fp32)
    printf '%q ' "${words[@]}" >runs/seed/command
    sidetune-run "${words[@]}" --out runs/seed/done --quiet >/dev/null
    rm -r runs/seed/done/{tb,checkpoints,probes}
}

# Two runs over a list of an option.
sweep() {
    rm -rf runs/sweep
    local words=(--env digits --env.tasks 1 --base mlp --base.width 1 --side mlp --side.width 1 --learner sidetune \
        --learner.no-norm --merger.per scalar,channel --train.batch 16 --train.steps 30 --train.lr 0.02 --train.clip 0.9 --train.device cpu \
        --train.precision fp32)
    sidetune sweep "${words[@]}" --out runs/sweep --workers 1 >/dev/null
    printf '%q ' "${words[@]}" >runs/sweep/command
    rm -r runs/sweep/runs/*/tb
}

# A claim, its record, and the runs that it was made from; and two claims of the project's own.
ledger() {
    rm -rf ledger runs/ledger
    mkdir -p ledger/recorded
    cp ../old/ledger/{rgbd-few25-sidetune,gym-cartpole}.toml ledger
    cp ../old/ledger/recorded/{rgbd-few25-sidetune,gym-cartpole}.json ledger/recorded
    cat >ledger/images-tiny.toml <<'END'
table = "Images, tiny"
method = "fine-tuning, clipped"
command = "sidetune-run --env images --env.size 8 --env.classes-per-task 2 --base mlp --base.width 6 --learner finetune --train.steps 15 --train.batch 5 --train.clip 0.7 --train.eps 1e-6 --train.precision fp32"
seeds = [0, 1]
tolerance = 0.3
END
    sidetune reproduce images-tiny env.folder=data/images train.device=cpu train.store=off --ledger ledger --out runs/ledger --record --quiet
    rm -r runs/ledger/*/*/tb
}

# pack NAME PATH…: one archive of a run folder and its data, always the same bytes for the same files.
pack() {
    local name=$1
    shift
    mkdir -p archives
    tar --sort=name --mtime=2000-01-01 --owner=0 --group=0 --numeric-owner --exclude=data/taskonomy/decoded -cf - "runs/$name" "$@" |
        xz -9e >"archives/$name.tar.xz"
}

archives() {
    local name
    for name in digits icifar cifar10 images squad taskonomy rgbd imitation habitat; do pack "$name" "data/$name"; done
    pack rooms
    pack gym
    pack seed
    pack sweep
    pack ledger data/images
}

if [ $# = 0 ]; then  # habitat needs another environment
    "$PYTHON" data.py
    set -- digits icifar cifar10 images squad taskonomy rgbd rooms gym recordings imitation seed sweep ledger archives
fi
for part in "$@"; do "$part"; done
