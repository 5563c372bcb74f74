"""Parameter-efficient fine-tuning with Hugging Face's peft, as a learner."""
