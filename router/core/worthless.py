"""Drafts that are worth nothing whatever was asked: they score 0 before a judge is asked, for judges fall for them.

Two kinds of rule stand here. Some name what no answer can be: nothing visible, the request given back, talk to the
grader. The others are guesses about what a text without a subject looks like: only signs, only an announcement
("Solution:"), only a refusal. A guess gives way where the task's own check, one that knows what its answers look like,
has found an answer.
"""

from __future__ import annotations

import re
import unicodedata

from router.core.grader_talk import speaks_to_grader

# What is read of a draft and what a judge is shown of it: its beginning and its end. Chosen, not measured.
MOST_DRAFT_CHARS = 8000

# Words that announce an answer; a draft of nothing else has none. Then the words that stand around them. By language.
_ANNOUNCING = """
    answer answers solution solutions solve solved solving think thinking thought thoughts reason reasoning analysis
    analyze analyse explanation explain explained step steps conclusion conclude result response proof approach
    breakdown rationale walkthrough
    respuesta solucion resolver resolvamos pensar pensemos pensamiento razonamiento explicacion paso
    reponse resolvons resoudre reflechissons reflexion raisonnement explication etape
    antwort losung losen denken gedankengang denkprozess begrundung erklarung schritt
    resposta solucao resolver pensar pensamento raciocinio explicacao passo
    risposta soluzione risolviamo pensiamo pensiero ragionamento spiegazione passo
    antwoord oplossing oplossen denkproces uitleg stap odpowiedz rozwiazanie rozwiazmy wyjasnienie krok
    cevap cozum cozelim dusunelim aciklama adim svar losning forklaring steg trin
    jawaban solusi penyelesaian langkah
    ответ решение решим рассуждение рассуждения объяснение шаг шагом размышления відповідь розв'язання
    الحل الإجابة الجواب لنحل لنفكر التفكير خطوة समाधान उत्तर हल चरण सोचें
    답변 해결 풀이 정답 해답 생각 설명 단계별로 풀어보겠습니다 생각해봅시다 풀어봅시다
"""
_AROUND = """
    a about absolutely all alright an and are as at be begin below break by can careful carefully certainly clear
    clearly consider correct course detail detailed details do down final find finally following follows for from
    get give given go going good great happy help here hmm how i in into is it its let lets ll look m make me my
    need now of ok okay on our out please problem process provide question re right s see show so start sure task
    tell that the their then there these this through to together understand us ve very want we well will with work
    working would you your yourself
    la el los las es de por este esta esto problema pregunta final aqui tiene vamos a proceso y en nos
    le les l est ce cette ca probleme question finale voici processus par pas et du ensemble
    die das der ist lautet dieses diese problem frage aufgabe wir uns lass lasst fur nach hier endgultige prozess zu und
    es o os e da do isso isto questao il lo questo questa domanda dopo per ecco processo finale
    het dit vraag probleem laten stap voor hier definitieve to oto ten po kroku bu soruyu problemi iste son
    det er dette trinn den jawabannya adalah mari kita ini demi
    это эту этот задачу задача вопрос давайте вот окончательный ход мысли за по
    هذه المسألة هذا السؤال بخطوة هو هي النهائية इस इसे को करें आइए है अंतिम यह
    이 문제를 문제 최종 과정 를 을 은 는
"""
# The same in languages that are written without spaces.
_UNSPACED = """
    让我们一步一步地解决这个问题 让我们一步一步地思考 让我们一步一步来思考 让我们逐步解决这个问题 让我们逐步思考
    我们一步一步来 一步一步地思考 一步一步 思考过程 思考過程 思考プロセス 解题过程 解題過程 解题思路
    最终答案 最終答案 最終的な答え 最終回答 答案是 答案 答え 回答 解答 解决方案 解決策 解决 解説 解析 解釈 解释
    分析 推理 說明 说明 首先 让我们 好的 以下是 如下 は です 解 答 かいせつ かいとう こたえ วิธีทำ คำตอบ
    ステップバイステップで考えましょう ステップバイステップで考えてみましょう
    この問題を一歩ずつ解いていきましょう 順を追って考えましょう 段階的に考えましょう
"""
# Alone, these may be the answer: a question may be about a response or a proof.
_ANSWERS_TOO = """
    think thinking thought thoughts reason step steps conclusion conclude result response proof approach breakdown
    rationale walkthrough solve solved solving explain explained
"""
# What somebody says who is about to begin, where nothing follows.
_BEGINNING = "let lets begin start understand break vamos lass mari"

# Sentences that say nothing of any subject.
_COURTESY = re.compile(
    r"""(?:i\ )?hope\ (?:this|that|it)\ helps?(?:\ you)?
      | (?:please\ )?
        (?:let\ me\ know|(?:feel\ free|do(?:\ not|n\ ?t)\ hesitate)\ to\ (?:ask|reach\ out))
        (?:\ if\ .{0,60})?
      | thanks?(?:\ you)?\ (?:so\ much\ |very\ much\ )?for\ (?:asking|your|the|this)\b.*
      | (?:(?:that|this|what)\ ?(?:s|\ is)?\ an?\ )?(?:(?:very|really)\ )?(?:great|good|interesting|excellent)
        \ question
      | (?:i\ ?(?:d|\ would|\ will|\ ?ll|\ am|m)\ (?:be\ )?)?(?:happy|glad|pleased)\ to\ (?:help|assist)\b.*
      | (?:is\ there\ )?anything\ else\b.* | how\ (?:can|may)\ i\ (?:help|assist)\b.*
      | here\ (?:you\ (?:go|are)|it\ is)""",
    re.VERBOSE,
)
_SORRY = r"(?:(?:i\ (?:am|m)\ )?(?:(?:very|really|so)\ )?sorry|(?:i\ )?apologi[sz]e|my\ apologies)"
_REFUSAL = re.compile(
    rf"""(?:{_SORRY}\ |unfortunately\ |but\ |however\ |as\ an?\ ai\b.{{0,40}}?\b)*
        i\ (?:cannot|can\ ?t|can\ not|am\ (?:unable|not\ able)|m\ (?:unable|not\ able)|won\ ?t|will\ not|must\ decline)
        \ (?:to\ )?(?:be\ able\ to\ )?
        (?:help|assist|answer|comply|provide|fulfill?|do\ (?:that|this|so)|respond|continue|process|complete|discuss
          |engage|support|share|offer|give)\b.*
      | {_SORRY}(?:\ (?:but|about\ that))?""",
    re.VERBOSE,
)
# A refusal is short; a longer text that begins like one goes on to say something. Chosen, not measured.
_REFUSAL_CHARS = 300
# "Here is the JSON that you asked for:" is short too.
_PREAMBLE_WORDS = 20

_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Mn", "Me"})
# Letters and symbols by their category, and blank on every screen.
_BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.!?;:\n。；…।]+")
_NUMBERED = re.compile(r"\b(step|paso|etape|schritt|passo|stap|krok|шаг|adim|langkah) ?#?\d{1,2}\b")


def is_visible(sign: str) -> bool:
    """Whether a reader sees a sign, if only as a space."""
    return unicodedata.category(sign) not in _UNSEEN and sign not in _BLANKS


def plain(text: str) -> str:
    """A text for comparing: compatible letters and signs as one, no accents, nothing invisible, lower case."""
    spread = unicodedata.normalize("NFKD", text)
    seen = "".join(sign for sign in spread if sign in "\n\t" or is_visible(sign))
    return re.sub(r"[^\S\n]+", " ", unicodedata.normalize("NFC", seen).casefold()).strip()


def shorten(text: str, most_chars: int) -> str:
    """The beginning and the end of a text that is longer, with a mark of what was left out."""
    if len(text) <= most_chars:
        return text
    half = most_chars // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _ends(text: str) -> str:
    """What a judge is shown of a draft, without the mark and without words that are cut in two."""
    half = MOST_DRAFT_CHARS // 2
    if len(text) <= MOST_DRAFT_CHARS:
        return text
    return re.sub(r"\w{1,40}$", "", text[:half]) + "\n" + re.sub(r"^\w{1,40}", "", text[-half:])


def _words(text: str) -> list[str]:
    return _WORD.findall(plain(text))


_ANNOUNCES = frozenset(_words(_ANNOUNCING))
_FILLS = _ANNOUNCES | frozenset(_words(_AROUND))
_BARE = _ANNOUNCES - frozenset(_words(_ANSWERS_TOO))
_BEGINS = frozenset(_words(_BEGINNING))
# The longer ones first, so that no part of one is left over.
_RUN_TOGETHER = re.compile("|".join(sorted(map(re.escape, plain(_UNSPACED).split()), key=len, reverse=True)))


def worthless(draft: str, prompt: str = "", *, found: bool = False) -> str:
    """Why a draft is worth nothing whatever a judge would say of it, or nothing.

    Parameters
    ----------
    draft
        What the model wrote.
    prompt
        The whole text of what it was asked, system text included.
    found
        Whether the task's check found an answer in the draft and knows what answers look like: a choice, a pattern,
        JSON. That a draft looks like no answer is then no argument against it. A number needs no such help, because
        no draft with a number in it looks like that.
    """
    text = plain(_ends(draft))
    words = _WORD.findall(text)
    if not text:
        return "is empty"
    if len(words) > 3 and words == _words(_ends(prompt)):
        return "is a copy of the request"
    if speaks_to_grader(text):
        return "speaks to its grader"
    if found:
        return ""
    if not words:
        return "has neither a letter nor a digit"
    return _says_nothing(text, words)


def _says_nothing(text: str, words: list[str]) -> str:
    """Why a text says nothing of any subject, or nothing."""
    if len(words) == 1 and ":" not in text:
        return "only announces an answer" if words[0] in _BARE or _is_run_together(words[0]) else ""
    sentences = (" ".join(_WORD.findall(one)) for one in _SENTENCE_END.split(_NUMBERED.sub(r"\1", text)))
    left = [one for one in sentences if one and not _COURTESY.fullmatch(one)]
    if len(text) <= _REFUSAL_CHARS and left:
        left = [one for one in left if not _REFUSAL.fullmatch(one)]
        if not left:
            return "is only a refusal"
    if not left:
        return "is all courtesy"
    return "only announces an answer" if _only_announces(text, left) else ""


def _only_announces(text: str, sentences: list[str]) -> bool:
    words = [word for one in sentences for word in one.split()]
    if text.endswith(":") and "\n" not in text and len(words) <= _PREAMBLE_WORDS and words[0] in _FILLS:
        return True
    last = sentences[-1]
    if len(sentences) > 1 and " " not in last and last not in _ANNOUNCES and not _is_run_together(last):
        return False  # "Answer: in" says something.
    words = words[words[0] == "first" and len(words) > 1 :]
    known = [word in _ANNOUNCES or _is_run_together(word) for word in words]
    begins = len(words) > 2 and not _BEGINS.isdisjoint(words)
    return (begins or any(known)) and all(one or word in _FILLS for one, word in zip(known, words, strict=True))


def _is_run_together(word: str) -> bool:
    return not word.isascii() and not _RUN_TOGETHER.sub("", word)
